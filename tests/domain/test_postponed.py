"""A delivery that was postponed: nothing has failed, the facts stay, the row comes again in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.absorb import absorb
from reconciler.domain.elapsed import MEDIA_LIFE
from reconciler.domain.model import Deliver, Done, Policy, Reschedule, Row
from reconciler.domain.observations import DeliveryPostponed, NotPolled
from tests.domain.worlds import NO_JITTER, NOW, POLICIES, POSTPONED, THEIRS, after, asset, row_in_flight, rows, wait


def silent_host(seconds: float = 5.0) -> DeliveryPostponed:
    return DeliveryPostponed((), "host_silent", "the host a.example says nothing", seconds)


@given(rows(), POSTPONED)
def test_nothing_counts_as_failed(row: Row, postponed: DeliveryPostponed) -> None:
    """Only the series of the host goes on, because other rows have just failed at it."""
    unchanged = replace(absorb(row, postponed, NOW), assets=row.assets, reason=row.reason, failing=row.failing)
    assert unchanged == row


@given(rows(), POSTPONED, POLICIES)
def test_it_never_fails_a_row(row: Row, postponed: DeliveryPostponed, policy: Policy) -> None:
    _, decision = after(row, postponed, policy=policy)
    assert isinstance(decision, Reschedule | Done)


def test_what_was_stored_before_is_kept_and_the_reason_names_the_host() -> None:
    row, decision = after(row_in_flight(sources=(THEIRS,)), replace(silent_host(), assets=(asset(0),)))
    assert row.assets == (asset(0),)
    assert isinstance(decision, Reschedule)
    assert decision.reason == "fetch: host_silent, the host a.example says nothing"


def test_the_next_visit_delivers_without_asking_kie_again() -> None:
    _, decision = after(row_in_flight(sources=(THEIRS,)), silent_host(), NotPolled())
    assert decision == Deliver()


@given(st.floats(0, 1e6))
def test_the_row_comes_again_before_its_addresses_expire(seconds: float) -> None:
    row = row_in_flight(sources=(THEIRS,), media_deadline=NOW + timedelta(minutes=1))
    _, decision = after(row, silent_host(seconds))
    assert timedelta(seconds=2) <= wait(decision) <= timedelta(minutes=1)


def test_a_spare_request_to_kie_does_not_make_it_come_sooner() -> None:
    _, decision = after(row_in_flight(sources=(THEIRS,)), silent_host(120.0))
    assert isinstance(decision, Reschedule)
    assert decision.earliest == decision.due_at == NOW + timedelta(seconds=120)


def test_it_ends_with_the_life_of_the_media() -> None:
    old = row_in_flight(sources=(THEIRS,), completed_at=NOW - MEDIA_LIFE - timedelta(hours=1))
    _, decision = after(old, silent_host(), policy=NO_JITTER)
    assert isinstance(decision, Done)
