"""What happens to a write that waits for a lock of the application: when it is tried again, and how it is kept.

A lock is nobody's failure: it counts neither towards a give-up nor against KIE. Pure. The visit calls `wait_for_lock`
when the database does not give the lock, and `repeated` when a try is due; the ledger keeps the write as JSON.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from reconciler.domain.model import AttachTask, Fail, Finish, LockedWrite, Reschedule, Row

FIRST_WAIT = 1.0
LONGEST_WAIT = 10.0
"""Seconds until the first further try, half as long again each time, and the most seconds between two tries."""

VISITED_AFTER = timedelta(minutes=5)
"""A row that waits for a lock is visited again after this time: KIE may say something else by then."""

LASTING = timedelta(minutes=2)
"""A lock that is held for longer is a finding."""


def wait_for_lock(
    row: Row, decision: AttachTask | Finish | Fail | Reschedule, now: datetime, *, reason: str
) -> Reschedule:
    """Return the Reschedule that replaces a decision for whose write a lock was not given."""
    if isinstance(decision, Reschedule):
        # Only `generating` was to be written; the next poll tries it again.
        return replace(decision, set_generating=False)
    before = row.locked_write
    if before is None or (before.task_id, before.status) != (row.task_id, row.status):
        before = LockedWrite(decision, row.task_id, row.status, row.polls, since=now, tries=0)
    write = replace(before, decision=decision, polls=row.polls, tries=before.tries + 1)
    wait = min(FIRST_WAIT * 1.5 ** min(write.tries - 1, 10), LONGEST_WAIT)
    due = now + VISITED_AFTER
    finding = "row_locked" if now - write.since >= LASTING else None
    return Reschedule(due, due, reason, finding=finding, locked_write=write, write_at=now + timedelta(seconds=wait))


def repeated(row: Row) -> AttachTask | Finish | Fail | None:
    """Return the decision to write again, None where the row has changed since it was made."""
    write = row.locked_write
    if write is None or (write.task_id, write.status, write.polls) != (row.task_id, row.status, row.polls):
        return None
    return write.decision


def to_json(write: LockedWrite) -> dict[str, object]:
    """Return the write as the ledger keeps it."""
    decision: dict[str, object]
    match write.decision:
        case AttachTask(task_id):
            decision = {"attach": task_id}
        case Finish(recheck_at):
            decision = {"finish": True, "recheck_at": _text(recheck_at)}
        case Fail(reason, recheck_at):
            decision = {"fail": reason, "recheck_at": _text(recheck_at)}
        case _:
            assert_never(write.decision)
    about = {"task_id": write.task_id, "status": write.status, "polls": write.polls}
    return {**decision, **about, "since": write.since.isoformat(), "tries": write.tries}


def from_json(kept: Mapping[str, Any]) -> LockedWrite | None:
    """Return the write that the ledger kept; None for one of another version that this one cannot read."""
    recheck_at = None if kept.get("recheck_at") is None else datetime.fromisoformat(kept["recheck_at"])
    decision: AttachTask | Finish | Fail
    if "attach" in kept:
        decision = AttachTask(kept["attach"])
    elif "finish" in kept:
        decision = Finish(recheck_at)
    elif "fail" in kept:
        decision = Fail(kept["fail"], recheck_at)
    else:
        return None
    since = datetime.fromisoformat(kept["since"])
    return LockedWrite(decision, kept["task_id"], kept["status"], kept["polls"], since, kept["tries"])


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
