"""A stored object that is missing or changed is fetched once more, and called lost if that is impossible."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.decide import REPAIR_ATTEMPTS, decide
from reconciler.domain.elapsed import FAILING_FOR
from reconciler.domain.ended_rows import is_repair
from reconciler.domain.model import Done, Policy, Poll, Reschedule, Row
from reconciler.domain.object_keys import Kind, object_key
from reconciler.domain.observations import Failed, NotPolled, Unreachable
from tests.domain.worlds import NOW, OURS, row_in_flight

POLICY = Policy(timedelta(hours=24))
FAILED = Failed("the task was deleted", "500")
LONG_AGO = NOW - timedelta(days=60)


def broken(failures: int = 0) -> Row:
    """Return a delivered row whose object was found missing, and whose task ended long ago."""
    return row_in_flight(
        status="success",
        reopened=True,
        asset_url=OURS,
        failures=failures,
        failing_since=NOW - FAILING_FOR,
        created_at=LONG_AGO,
        completed_at=LONG_AGO,
    )


def test_an_object_that_kie_no_longer_has_is_lost_and_the_row_stays_a_success() -> None:
    decision = decide(broken(), FAILED, NOW, POLICY)
    assert isinstance(decision, Done)
    assert decision.lost


def test_observe_mode_calls_no_object_lost() -> None:
    decision = decide(broken(), FAILED, NOW, replace(POLICY, observe=True))
    assert decision == Reschedule(NOW + timedelta(hours=1), NOW + timedelta(hours=1), decision.reason)


def test_an_object_is_not_called_lost_after_a_few_failures_however_old_its_media() -> None:
    decisions = [decide(broken(failures), Unreachable("away"), NOW, POLICY) for failures in (1, REPAIR_ATTEMPTS)]
    assert [isinstance(one, Done) and one.lost for one in decisions] == [False, True]


def test_an_object_is_not_called_lost_in_less_than_ten_minutes_however_often_it_is_requested() -> None:
    row = replace(broken(99), failing_since=NOW - FAILING_FOR + timedelta(seconds=1))
    assert isinstance(decide(row, Unreachable("away"), NOW, POLICY), Reschedule)


@pytest.mark.parametrize(
    "generation_id", ["8f9c1c6e-2f0b-4c39-9d1b-6a1a0f9d2b11", "41", "gen:1", "_", "a/b c", "яблоко"]
)
def test_a_row_with_any_id_is_recognised_by_its_path_and_repaired(generation_id: str) -> None:
    path = object_key(user_id=None, kind=Kind.IMAGE, generation_id=generation_id, n=0, ext="png")
    row = replace(broken(), id=generation_id, asset_url=f"https://shop.example/storage/{path}")
    assert is_repair(row)
    assert decide(row, NotPolled(), NOW, POLICY) == Poll()
    assert not is_repair(replace(row, id="another"))
