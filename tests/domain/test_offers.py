"""A row without a task, to which callbacks offer one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.domain.decide import RECOVERY
from reconciler.domain.model import (
    AttachTask,
    Done,
    IdentifyTask,
    NotPolled,
    Policy,
    Reschedule,
    Row,
    TaskIdentified,
    TaskNotIdentified,
)
from tests.domain.worlds import CALM, NOW, after, rest, row_in_flight


def offered(**facts: object) -> Row:
    return row_in_flight(**({"task_id": None, "offered": ("t",), "polls": 0} | facts))


def test_kie_is_asked_whose_an_offered_task_is() -> None:
    assert after(offered(), NotPolled())[1] == IdentifyTask()
    assert isinstance(after(offered(offered=()), NotPolled())[1], Reschedule)


def test_an_observer_asks_nothing_about_offers() -> None:
    _, decision = after(offered(), NotPolled(), limits=Policy(observe=True))

    assert isinstance(decision, Reschedule)


@pytest.mark.parametrize("status", ["success", "failed", "cancelled"])
def test_a_row_that_ended_gets_no_task(status: str) -> None:
    assert isinstance(after(offered(status=status), NotPolled())[1], Done)


def test_the_task_that_is_the_rows_own_is_adopted_and_counts_as_known_to_kie() -> None:
    row, decision = after(offered(failures=4), TaskIdentified("t"))

    assert decision == AttachTask("t")
    assert (row.acknowledged_at, row.answered_at, row.failures, row.polls) == (NOW, NOW, 0, 1)


def test_an_offer_that_is_refused_is_asked_about_ever_more_slowly_and_told() -> None:
    row, waits = offered(created_at=NOW), []
    for _ in range(10):
        row, decision = after(row, TaskNotIdentified("the record of t names another generation or none"))
        assert isinstance(decision, Reschedule)
        assert decision.early == decision.until
        waits.append(rest(decision))

    assert waits == sorted(waits)
    assert waits[0] < timedelta(seconds=10)
    assert waits[-1] > timedelta(minutes=5)
    assert isinstance(decision, Reschedule)
    assert decision.reason == (
        "no task id yet; a callback offers one, but the record of t names another generation or none"
    )
    assert decision.finding is None


def test_a_row_whose_offers_are_refused_for_ten_minutes_is_a_finding() -> None:
    _, decision = after(offered(created_at=NOW - timedelta(minutes=11)), TaskNotIdentified("KIE does not know t"))

    assert isinstance(decision, Reschedule)
    assert decision.finding == "no_task"


def test_an_outage_that_ends_is_not_slept_through_and_a_wait_that_kie_named_is_kept_for_a_minute() -> None:
    away = offered(failures=8)
    _, unheard = after(away, TaskNotIdentified("KIE could not be asked", heard=False))
    _, told = after(away, TaskNotIdentified("KIE could not be asked", heard=False, retry_after=3600.0), limits=CALM)

    assert isinstance(unheard, Reschedule)
    assert unheard.early - NOW == timedelta(seconds=RECOVERY)
    assert isinstance(told, Reschedule)
    assert told.until - NOW == timedelta(hours=1)
    assert told.early - NOW == timedelta(minutes=1)
