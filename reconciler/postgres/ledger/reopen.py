"""Reopens a generation that has failed, so that its next visit asks the provider once more.

It takes no lease and waits for none: while one is held it changes nothing. `retry` and `backfill` call it.
"""

from datetime import timedelta

from reconciler.postgres.ledger.ledger_sql import FACTS
from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import (
    LEASE_IS_FREE,
    TASK,
    set_task,
)
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

_FORGOTTEN = ", ".join(f"{name} = DEFAULT" for name in FACTS if name != "task_id")


class Reopener:
    """Reopens failed rows of the application's table as it is; `term` is a lease's length in seconds."""

    def __init__(self, database: Database, table: PresentTable, *, term: float) -> None:
        self._database = database
        self._term = timedelta(seconds=term)
        self._forget = PerShape(table, _forget_sql)
        self._reopen = PerShape(table, _reopen_sql)

    async def reopen(self, generation_id: str) -> bool:
        """Make a failed generation due now; False when it is held, or has not failed."""
        await self._database.execute(*self._forget.present(generation_id=generation_id, term=self._term))
        return await self._database.value(*self._reopen.present(generation_id=generation_id, term=self._term)) is True


def _failed_row(table: TableShape) -> str:
    return f"public.generations g WHERE g.id = :generation_id::text::{table.id_type} AND g.status = 'failed'"


def _forget_sql(table: TableShape) -> Statement:
    """Read the failed row; clear the facts in `work` where they are about a task that the row no longer has.

    That the generation was refunded, or delivered once, stays true.
    """
    return Statement(f"""
UPDATE reconciler.work w SET {set_task(TASK)}, {_FORGOTTEN} FROM {_failed_row(table)}
   AND w.generation_id = :generation_id AND {LEASE_IS_FREE} AND w.seen_task IS DISTINCT FROM {TASK}""")


def _reopen_sql(table: TableShape) -> Statement:
    """Read the failed row; make it due in `work` where no lease holds it; return a row where it did."""
    return Statement(f"""
INSERT INTO reconciler.work AS w (generation_id, due_at, trigger, seen_status, seen_task, reopened)
SELECT g.id::text, now(), 'sync', g.status, {TASK}, true FROM {_failed_row(table)}
ON CONFLICT (generation_id) DO UPDATE SET reopened = true, due_at = now(), trigger = 'sync' WHERE {LEASE_IS_FREE}
RETURNING true""")
