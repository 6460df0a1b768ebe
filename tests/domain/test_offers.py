"""A row without a task, for which a callback names one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.domain.decide import RECOVERY_SECONDS
from reconciler.domain.model import AttachTask, Done, IdentifyTask, Policy, Reschedule, Row
from reconciler.domain.observations import NotPolled, TaskIdentified, TaskNotIdentified
from tests.domain.worlds import NO_JITTER, NOW, after, row_in_flight, wait


def offered(**facts: object) -> Row:
    return row_in_flight(**({"task_id": None, "offered": ("t",), "polls": 0} | facts))


def test_kie_is_asked_which_generation_an_offered_task_is_for() -> None:
    assert after(offered(), NotPolled())[1] == IdentifyTask()
    assert isinstance(after(offered(offered=()), NotPolled())[1], Reschedule)


def test_observe_mode_ignores_offered_tasks() -> None:
    _, decision = after(offered(), NotPolled(), policy=Policy(observe=True))

    assert isinstance(decision, Reschedule)


@pytest.mark.parametrize("status", ["success", "failed", "cancelled"])
def test_a_row_that_has_ended_gets_no_task(status: str) -> None:
    assert isinstance(after(offered(status=status), NotPolled())[1], Done)


def test_the_identified_task_is_attached_and_counts_as_known_to_kie() -> None:
    row, decision = after(offered(failures=4), TaskIdentified("t"))

    assert decision == AttachTask("t")
    assert (row.acknowledged_at, row.answered_at, row.failures, row.polls) == (NOW, NOW, 0, 1)


def test_an_offered_task_of_another_generation_is_polled_more_and_more_slowly_with_a_reason() -> None:
    row, waits = offered(created_at=NOW), []
    for _ in range(10):
        row, decision = after(row, TaskNotIdentified("the record of t names another generation or none"))
        assert isinstance(decision, Reschedule)
        assert decision.earliest == decision.due_at
        waits.append(wait(decision))

    assert waits == sorted(waits)
    assert waits[0] < timedelta(seconds=10)
    assert waits[-1] > timedelta(minutes=5)
    assert isinstance(decision, Reschedule)
    assert decision.reason == (
        "no task id yet; a callback offers one, but the record of t names another generation or none"
    )
    assert decision.finding is None


def test_a_row_without_a_confirmed_task_is_a_finding_after_ten_minutes() -> None:
    _, decision = after(offered(created_at=NOW - timedelta(minutes=11)), TaskNotIdentified("KIE does not know t"))

    assert isinstance(decision, Reschedule)
    assert decision.finding == "no_task"


def test_the_end_of_an_outage_is_noticed_early_and_a_retry_after_is_respected_for_a_minute() -> None:
    away = offered(failures=8)
    _, unreachable = after(away, TaskNotIdentified("KIE could not be asked", all_answered=False))
    _, retry_after = after(
        away, TaskNotIdentified("KIE could not be asked", all_answered=False, retry_after=3600.0), policy=NO_JITTER
    )

    assert isinstance(unreachable, Reschedule)
    assert unreachable.earliest - NOW == timedelta(seconds=RECOVERY_SECONDS)
    assert isinstance(retry_after, Reschedule)
    assert retry_after.due_at - NOW == timedelta(hours=1)
    assert retry_after.earliest - NOW == timedelta(minutes=1)
