"""How a row rests whose last word the application's table or its hook refuses."""

from __future__ import annotations

from datetime import timedelta

from reconciler.domain.model import Decision, Fail, Finish, Reschedule, Row
from reconciler.domain.write_rejected import held_up
from tests.domain.worlds import NOW, rest, row_in_flight

MINUTE = timedelta(minutes=1)


def refused(row: Row, decision: Decision) -> tuple[Row, Reschedule]:
    return held_up(row, decision, NOW, why="the gallery is full", finding="row_refused")


def test_a_success_that_is_refused_again_and_again_waits_ever_longer():
    row, waits = row_in_flight(), []
    for _ in range(3):
        row, decision = refused(row, Finish())
        assert (decision.reason, decision.finding) == ("the gallery is full", "row_refused")
        assert decision.early == decision.until
        waits.append(rest(decision) / MINUTE)

    assert waits == [5, 10, 20]


def test_a_failure_that_is_refused_waits_five_minutes_whatever_was_missed_before_it():
    row, decision = refused(row_in_flight(failures=9), Fail("gave up", until=NOW))

    assert (row.failures, rest(decision)) == (9, 5 * MINUTE)


def test_where_only_generating_is_refused_the_row_keeps_its_pace():
    paced = Reschedule(NOW + MINUTE, NOW + MINUTE / 4, "KIE says generating", begun=True)

    row, decision = refused(row_in_flight(), paced)

    assert (decision.until, decision.early, decision.begun) == (paced.until, paced.early, False)
    assert (decision.finding, row) == ("row_refused", row_in_flight())
