"""Reopens a generation that has failed, so that its next visit asks the provider once more.

It takes no lease: it waits for nobody's, and steps back while one is running. Called by the chores.
"""

from __future__ import annotations

from reconciler.postgres.ledger.ledger_sql import FACTS
from reconciler.postgres.ledger.task_history import given
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import TableShape

_FREE = "(w.lease_until IS NULL OR w.lease_until < now())"

_FORGOTTEN = ", ".join(f"{name} = DEFAULT" for name in FACTS if name != "task_id")


class Reopener:
    """Reopens failed rows of the application's table as it is."""

    def __init__(self, database: Database, shape: TableShape) -> None:
        self._database = database
        row = f"public.generations g WHERE g.id = $1::text::{shape.id_type} AND g.status = 'failed'"
        # What was noted about a task that the row no longer has must not be believed of the one it has now; that the
        # generation was refunded, or delivered once, stays true.
        self._forget = f"""
UPDATE reconciler.work w SET {given("g.task_id")}, {_FORGOTTEN} FROM {row}
   AND w.generation_id = $1 AND {_FREE} AND w.seen_task IS DISTINCT FROM g.task_id"""
        self._reopen = f"""
INSERT INTO reconciler.work AS w (generation_id, due_at, trigger, seen_status, seen_task, reopened)
SELECT g.id::text, now(), 'sync', g.status, g.task_id, true FROM {row}
ON CONFLICT (generation_id) DO UPDATE SET reopened = true, due_at = now(), trigger = 'sync' WHERE {_FREE}
RETURNING true"""

    async def reopen(self, generation_id: str) -> bool:
        """Make a failed generation due now; False when it is held, or has not failed."""
        await self._database.execute(self._forget, generation_id)
        return await self._database.value(self._reopen, generation_id) is True
