"""When a row is visited again after the application's table or its hook has rejected our write.

Pure. Only the visit calls this, with the decision of `decide` that could not be written.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.domain import poll_interval
from reconciler.domain.model import Decision, Finish, Reschedule, Row


def retry_rejected_write(
    row: Row, decision: Decision, now: datetime, *, reason: str, finding: str
) -> tuple[Row, Reschedule]:
    """Return the row, and the Reschedule that replaces the rejected decision."""
    if isinstance(decision, Reschedule):
        # Only `generating` was rejected: that must not delay the result.
        return row, replace(decision, set_generating=False, reason=reason, finding=finding)
    rejections = 1
    if isinstance(decision, Finish):
        # Only the final write is left for this row, so its rejections are the row's failures.
        row = replace(row, failures=row.failures + 1)
        rejections = row.failures
    due = now + timedelta(seconds=poll_interval.rejected_write_wait(rejections))
    return row, Reschedule(due, due, reason, finding=finding)
