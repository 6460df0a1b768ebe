"""Marks the generations that have just become stuck, so that the log names each of them once.

The mark stands in `work`, so neither another leader nor a restart repeats it. The periodic task `stuck_log` calls it;
which rows are stuck now is a report (`reports/`).
"""

from dataclasses import dataclass

from reconciler.postgres.eligibility import owned
from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import IN_FLIGHT, SAME_TASK, TASK, WAITING_SINCE
from reconciler.postgres.records import build
from reconciler.postgres.reports.reports import ReportScope
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

MOST = 100
"""Rows that one statement marks: after an outage the rest follows with the next rounds."""


@dataclass(frozen=True, slots=True)
class NewlyStuck:
    """A generation that has just been in flight for too long; `age` is in seconds, `reason` as `explain` shows it."""

    generation_id: str
    task_id: str | None
    age: float
    reason: str


def mark(table: TableShape) -> Statement:
    """Mark up to :most of our rows in flight that have waited longer than :stuck_after, and return them.

    Reads them by the index of rows in flight and writes `stuck_at`, once for each task. A row whose bookkeeping is
    locked, or that no replica has looked at yet, is left for the next time.
    """
    return Statement(f"""
WITH found AS (
    SELECT w.generation_id, ({TASK})::text AS task_id,
           extract(epoch FROM now() - {WAITING_SINCE})::float8 AS age,
           CASE WHEN {SAME_TASK} THEN coalesce(w.why, 'waiting for its first poll')
                ELSE 'not looked at since it got this task' END AS reason
      FROM public.generations g JOIN reconciler.work w ON w.generation_id = g.id::text
     WHERE {IN_FLIGHT} AND {WAITING_SINCE} < now() - :stuck_after::interval AND {owned(table)}
       AND (w.stuck_at IS NULL OR w.stuck_at < {WAITING_SINCE})
     LIMIT :most FOR UPDATE OF w SKIP LOCKED)
UPDATE reconciler.work w SET stuck_at = now() FROM found WHERE w.generation_id = found.generation_id
RETURNING w.generation_id, found.task_id, found.age, found.reason""")


class StuckRows:
    """Finds what has become stuck, by what the reports count as stuck."""

    def __init__(self, database: Database, table: PresentTable, scope: ReportScope) -> None:
        self._database = database
        self._mark = PerShape(table, mark)
        self._scope = scope

    async def mark(self) -> tuple[NewlyStuck, ...]:
        """Return the generations that have become stuck since they were last asked for, 100 at most."""
        statement = self._mark.present(stuck_after=self._scope.stuck_after, most=MOST, **self._scope.owned)
        return tuple(build(NewlyStuck, row) for row in await self._database.fetch(*statement))
