"""Whether an offered task whose record names no generation can be the one that an order made."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.domain.task_attribution import OrderFacts, may_be_ours
from tests.domain.worlds import NOW

ORDERED = OrderFacts(ordered_at=NOW, taken=False)


@pytest.mark.parametrize("seconds", [-300, -1, 0, 45, 300])
def test_a_task_that_was_made_when_the_order_was_sent_can_be_ours(seconds: int) -> None:
    assert may_be_ours(ORDERED, NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [-86_400, -301, 301, 86_400])
def test_a_task_that_was_made_at_another_time_cannot(seconds: int) -> None:
    assert not may_be_ours(ORDERED, NOW + timedelta(seconds=seconds))


def test_a_time_that_is_unknown_or_without_a_zone_is_no_argument() -> None:
    assert may_be_ours(ORDERED, None)
    assert may_be_ours(ORDERED, (NOW + timedelta(days=30)).replace(tzinfo=None))


def test_a_task_of_another_row_is_never_ours() -> None:
    assert not may_be_ours(OrderFacts(NOW, taken=True), NOW)
    assert not may_be_ours(OrderFacts(NOW, taken=True), None)


def test_a_row_that_createtask_did_not_order_gets_no_task_this_way() -> None:
    assert not may_be_ours(OrderFacts(None, taken=False), NOW)
