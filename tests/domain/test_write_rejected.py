"""When a row is visited again after the application's table or its hook has rejected our write."""

from __future__ import annotations

from datetime import timedelta

from reconciler.domain.decide import retry_rejected_write
from reconciler.domain.model import Decision, Fail, Finish, Reschedule, Row
from tests.domain.worlds import NOW, row_in_flight, wait

MINUTE = timedelta(minutes=1)


def rejected(row: Row, decision: Decision) -> tuple[Row, Reschedule]:
    return retry_rejected_write(row, decision, NOW, reason="the gallery is full", finding="row_refused")


def test_a_success_that_is_rejected_again_waits_longer_each_time():
    row, waits = row_in_flight(), []
    for _ in range(3):
        row, decision = rejected(row, Finish())
        assert (decision.reason, decision.finding) == ("the gallery is full", "row_refused")
        assert decision.earliest == decision.due_at
        waits.append(wait(decision) / MINUTE)

    assert waits == [5, 10, 20]


def test_a_rejected_failure_waits_five_minutes_however_many_polls_failed_before():
    row, decision = rejected(row_in_flight(failures=9), Fail("gave up", recheck_at=NOW))

    assert (row.failures, wait(decision)) == (9, 5 * MINUTE)


def test_a_row_keeps_its_poll_interval_if_only_generating_is_rejected():
    polling = Reschedule(NOW + MINUTE, NOW + MINUTE / 4, "KIE says generating", set_generating=True)

    row, decision = rejected(row_in_flight(), polling)

    assert (decision.due_at, decision.earliest, decision.set_generating) == (polling.due_at, polling.earliest, False)
    assert (decision.finding, row) == ("row_refused", row_in_flight())
