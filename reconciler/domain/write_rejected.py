"""The opinion about a row whose last word could not be written: the application's table or its hook refuses it.

Pure, like `decide`, whose decision was refused. Called by the visit only.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.domain import poll_interval
from reconciler.domain.model import Decision, Finish, Reschedule, Row


def held_up(row: Row, decision: Decision, now: datetime, *, why: str, finding: str) -> tuple[Row, Reschedule]:
    """Return how a row rests whose last word the application's table or hook refuses."""
    if isinstance(decision, Reschedule):
        # Only `generating` was refused: that must not keep the result waiting.
        return row, replace(decision, begun=False, reason=why, finding=finding)
    refusals = 1
    if isinstance(decision, Finish):
        # Nothing else is left to be done for it, so nothing else counts its misses.
        row = replace(row, failures=row.failures + 1)
        refusals = row.failures
    until = now + timedelta(seconds=poll_interval.behind(refusals))
    return row, Reschedule(until, until, why, finding=finding)
