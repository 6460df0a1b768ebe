"""What is concluded from elapsed time, and cannot be taken back, needs a clock that is known to run evenly (N4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.elapsed import EMPTY_LOOKS
from reconciler.domain.model import Done, Fail, Finish, Reschedule, Result, Row
from reconciler.domain.observations import (
    DeliveryFailed,
    Failed,
    Observation,
    Ready,
    TaskUnknown,
    Unreachable,
    Unreadable,
    Working,
)
from testkit.answers import ready
from tests.domain.worlds import NO_JITTER, NOW, after, asset, row_in_flight

HOUR = timedelta(hours=1)
DAYS = timedelta(days=15)
OLD = {"created_at": NOW - 25 * HOUR, "acknowledged_at": NOW - HOUR, "answered_at": NOW - timedelta(minutes=1)}
GONE = {"created_at": NOW - DAYS, "completed_at": NOW - DAYS, "acknowledged_at": NOW - DAYS, "answered_at": NOW - DAYS}
HALF = {
    "results": (Result("a", 0, ("https://tempfile.aiquickdraw.com/a",)), Result("b", 1)),
    "assets": (asset(0),),
    "completed_at": NOW - HOUR,
    "missing_since": NOW - HOUR,
}
EMPTY = {"empty_since": NOW - HOUR, "empties": EMPTY_LOOKS, "empty_counted_at": NOW, "completed_at": NOW - HOUR}
BROKEN = {"failures": 9, "failing_since": NOW - HOUR, "results": (Result("a", 0, ("https://dead.example/a",)),)}
FAILING = DeliveryFailed((), "fetch", "http_404", n=0, permanent=True, gone=True)

CONCLUSIONS: dict[str, tuple[Row, Observation, type]] = {
    "given up while KIE works": (row_in_flight(**OLD), Working("generating"), Fail),
    "given up while KIE is silent": (row_in_flight(**OLD), Unreachable("timeout"), Fail),
    "given up as unknown": (row_in_flight(**OLD), TaskUnknown("record_null"), Fail),
    "a dead address": (row_in_flight(**{**OLD, **BROKEN}), FAILING, Fail),
    "an empty success": (row_in_flight(**EMPTY), Ready(()), Fail),
    "a result that never came": (row_in_flight(**HALF), Working("generating"), Finish),
    "media that is gone": (row_in_flight(**GONE), Unreadable(("field",)), Done),
    "a late result": (row_in_flight(status="failed", gave_up=True, **GONE), Working("generating"), Done),
}


@pytest.mark.parametrize("name", CONCLUSIONS)
def test_n4_nothing_that_cannot_be_taken_back_is_concluded_by_a_clock_that_is_not_trusted(name: str) -> None:
    row, observation, concluded = CONCLUSIONS[name]
    assert isinstance(after(row, observation)[1], concluded), "the clock is trusted"

    waited = after(row, observation, policy=replace(NO_JITTER, clock_trusted=False))[1]

    assert isinstance(waited, Reschedule)
    assert NOW < waited.due_at <= NOW + timedelta(hours=6)


@pytest.mark.parametrize("name", CONCLUSIONS)
def test_n4_a_time_from_before_a_step_proves_nothing_about_the_time_until_the_step(name: str) -> None:
    row, observation, concluded = CONCLUSIONS[name]
    just_now = replace(NO_JITTER, clock_stepped_at=NOW - timedelta(minutes=5))
    long_ago = replace(NO_JITTER, clock_stepped_at=NOW - timedelta(days=60))

    assert isinstance(after(row, observation, policy=just_now)[1], Reschedule)
    assert isinstance(after(row, observation, policy=long_ago)[1], concluded)


@pytest.mark.parametrize(
    "policy",
    [replace(NO_JITTER, clock_trusted=False), replace(NO_JITTER, clock_stepped_at=NOW)],
    ids=["untrusted", "stepped"],
)
def test_kies_own_word_needs_no_clock(policy) -> None:
    decide: Callable[[Row, Observation], object] = lambda row, seen: after(row, seen, policy=policy)[1]  # noqa: E731

    assert isinstance(decide(row_in_flight(), Failed("blocked", "400")), Fail)
    assert type(decide(row_in_flight(), ready(["https://tempfile.aiquickdraw.com/a"]))).__name__ == "Deliver"


def test_n4_a_row_that_a_step_made_hours_older_is_polled_as_often_as_a_new_one() -> None:
    row = row_in_flight(created_at=NOW - 6 * HOUR)
    by_age = after(row, Working("waiting"))[1]
    stepped = replace(NO_JITTER, clock_stepped_at=NOW - timedelta(seconds=30))
    since_step = after(row, Working("waiting"), policy=stepped)[1]

    assert isinstance(by_age, Reschedule)
    assert isinstance(since_step, Reschedule)
    assert by_age.due_at - NOW > 10 * (since_step.due_at - NOW)


def test_n4_a_row_of_a_day_by_a_clock_that_is_not_trusted_waits_for_minutes() -> None:
    """Nobody may have noted the step that made it so old."""
    untrusted = replace(NO_JITTER, clock_trusted=False)
    in_flight, late = row_in_flight(created_at=NOW - 23 * HOUR), row_in_flight(created_at=NOW - 25 * HOUR)
    by_age = after(in_flight, Working("waiting"))[1]
    waits = [after(row, Working("waiting"), policy=untrusted)[1] for row in (in_flight, late)]
    silent = after(late, Unreachable("timeout"), policy=untrusted)[1]

    assert isinstance(by_age, Reschedule)
    assert by_age.due_at - NOW > timedelta(minutes=30)
    for decision in (*waits, silent):
        assert isinstance(decision, Reschedule)
        assert decision.due_at - NOW <= timedelta(minutes=5)
