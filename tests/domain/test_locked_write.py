"""When a write whose lock was not given is tried again, and what it must still be about."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.locked_write import from_json, repeated, to_json, wait_for_lock
from reconciler.domain.model import AttachTask, Fail, Finish, LockedWrite, Reschedule, Row
from tests.domain.worlds import NOW, row_in_flight

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
ZERO = timedelta()
FINISH = Finish()
DECISIONS = [Finish(), Finish(NOW + MINUTE), Fail("refused"), Fail("gave up", recheck_at=NOW), AttachTask("task-1")]


def locked(row: Row, after: timedelta = ZERO, decision: Finish | Fail = FINISH) -> tuple[Row, Reschedule]:
    rest = wait_for_lock(row, decision, NOW + after, reason="another session holds it")
    return replace(row, locked_write=rest.locked_write), rest


def test_the_tries_are_one_to_ten_seconds_apart_and_no_failure_is_counted():
    row, waits = row_in_flight(failures=2), []
    for _ in range(12):
        row, rest = locked(row)
        assert rest.write_at is not None
        waits.append((rest.write_at - NOW) / SECOND)

    assert waits[:3] == [1, 1.5, 2.25]
    assert waits[-1] == 10
    assert waits == sorted(waits)
    assert (row.failures, row.failing_since) == (2, None)


def test_a_row_that_waits_is_visited_only_after_five_minutes():
    _, rest = locked(row_in_flight())

    assert (rest.due_at - NOW, rest.earliest - NOW) == (5 * MINUTE, 5 * MINUTE)


def test_a_lock_is_a_finding_once_it_lasts_two_minutes():
    row, first = locked(row_in_flight())
    row, brief = locked(row, MINUTE)
    row, lasting = locked(row, 2 * MINUTE)

    assert [rest.finding for rest in (first, brief, lasting)] == [None, None, "row_locked"]
    assert lasting.reason == "another session holds it"


def test_a_poll_in_between_does_not_restart_the_time_but_another_task_does():
    row, _ = locked(row_in_flight())

    polled, _ = locked(replace(row, polls=row.polls + 1), MINUTE, Fail("refused"))
    other, _ = locked(replace(row, task_id="another"), MINUTE)

    assert polled.locked_write is not None
    assert (polled.locked_write.since, polled.locked_write.tries, repeated(polled)) == (NOW, 2, Fail("refused"))
    assert other.locked_write is not None
    assert (other.locked_write.since, other.locked_write.tries) == (NOW + MINUTE, 1)


@pytest.mark.parametrize("change", [{"task_id": "another"}, {"status": "cancelled"}, {"polls": 99}])
def test_a_write_counts_only_for_the_row_that_it_was_decided_about(change: dict[str, object]):
    row, _ = locked(row_in_flight())

    assert repeated(row) == Finish()
    assert repeated(replace(row, **change)) is None


def test_a_row_keeps_its_poll_interval_if_only_generating_has_to_wait():
    polling = Reschedule(NOW + MINUTE, NOW + MINUTE / 4, "KIE says generating", set_generating=True)

    rest = wait_for_lock(row_in_flight(), polling, NOW, reason="another session holds it")

    assert rest == replace(polling, set_generating=False)


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_kept_write_is_read_as_it_was(decision: AttachTask | Finish | Fail):
    write = LockedWrite(decision, "task-1", "queued", 3, NOW, tries=2)

    assert from_json(to_json(write)) == write


def test_a_write_of_another_version_is_none():
    assert from_json({"split": True, "task_id": None}) is None
