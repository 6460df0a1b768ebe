"""Drops the bookkeeping of many generations at once that the application has deleted.

A claim finds out about one at a time, at the pace of requests: after a mass deletion other rows waited for that.
"""

from datetime import timedelta

from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import LEASE_IS_FREE, OVERDUE, mark_orphans
from reconciler.postgres.schema import UNSEEN, TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

MOST = 20_000
"""So many due rows at most are compared with the application's table at once."""


class DeletedRows:
    """The due rows that the application has deleted; `term` is a lease's length."""

    def __init__(self, database: Database, table: PresentTable, term: timedelta) -> None:
        self._database = database
        self._term = term
        self._forget = PerShape(table, _forget_sql)

    async def forget(self) -> int:
        """Drop the bookkeeping of those that no lease holds, and return how many they were."""
        forgotten: int = await self._database.value(*self._forget.present(term=self._term, most=MOST))
        return forgotten


def _forget_sql(table: TableShape) -> Statement:
    """Read the :most rows that are overdue for longest; delete the bookkeeping of those that are deleted; count them.

    Their objects become orphans. Nothing is deleted while row security may hide rows.
    """
    # As a scalar: the planner would read a large table of the application from end to end for an anti-join.
    exists = f"(SELECT true FROM public.generations g WHERE g.id = overdue.generation_id::{table.id_type})"
    return Statement(f"""
WITH overdue AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w WHERE {OVERDUE} ORDER BY w.due_at LIMIT :most),
deleted AS MATERIALIZED (
    SELECT generation_id FROM overdue
     WHERE {exists} IS NULL AND NOT EXISTS ({UNSEEN})),
free AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w JOIN deleted USING (generation_id) WHERE {LEASE_IS_FREE}
       FOR UPDATE OF w SKIP LOCKED),
gone AS (
    DELETE FROM reconciler.work w USING free WHERE w.generation_id = free.generation_id RETURNING w.generation_id),
objects AS (DELETE FROM reconciler.assets a USING gone WHERE a.generation_id = gone.generation_id RETURNING a.path),
orphans AS ({mark_orphans("the generation was deleted", "objects")})
SELECT count(*) FROM gone""")
