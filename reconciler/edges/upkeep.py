"""What grows old: failed generations with nothing stored, and our own traces.

Only the leader calls this, once an hour; every statement is bounded, so that no lock is held for long.
"""

from __future__ import annotations

from reconciler.edges.db import Database
from reconciler.edges.schema import Shape

BATCH = 500

_TRACES = (
    "DELETE FROM reconciler.instances WHERE seen_at < now() - interval '1 day'",
    """DELETE FROM reconciler.requests WHERE (caller, key) IN (
           SELECT caller, key FROM reconciler.requests WHERE at < now() - interval '3 days' ORDER BY at LIMIT 5000)""",
    # Only the oldest are looked at. KIE keeps results for 14 days: a task that nobody knew by then is nobody's.
    """DELETE FROM reconciler.callbacks WHERE id IN (
           SELECT oldest.id FROM (SELECT id, task_id, at FROM reconciler.callbacks ORDER BY id LIMIT 50000) oldest
            WHERE at < now() - interval '30 days'
               OR (at < now() - interval '14 days'
                   AND NOT EXISTS (SELECT FROM reconciler.work w WHERE w.seen_task = oldest.task_id)))""",
)

# Where somebody is to be told ($1), what is neither told nor given up waits for as long as it takes.
_EVENTS = """
DELETE FROM reconciler.events WHERE id IN (
    SELECT id FROM reconciler.events
     WHERE at < now() - interval '30 days' AND (announced_at IS NOT NULL OR dead_at IS NOT NULL OR NOT $1)
     ORDER BY id LIMIT 5000)"""

WALK = 20_000
"""Rows of our bookkeeping that one round looks at for generations that the application has deleted."""


class Upkeep:
    """Deletes what the settings call too old, and what has lost its generation."""

    def __init__(self, database: Database, shape: Shape, *, announces: bool = False) -> None:
        """`announces`: events are told to somebody."""
        self._database = database
        self._announces = announces
        self._walked = ""
        self._failed = _failed_sql(shape)
        self._deserted = _deserted_sql(shape)

    async def failed(self, days: int) -> int:
        """Delete one batch of failed generations older than so many days with nothing stored; return how many."""
        deleted: int = await self._database.value(self._failed, days)
        return deleted

    async def traces(self) -> None:
        """Delete instances, events and callbacks that nobody will ask about again; an event to be told stays."""
        await self._database.execute(_EVENTS, self._announces)
        for statement in _TRACES:
            await self._database.execute(statement)

    async def deserted(self) -> int:
        """Forget generations that the application deleted, a stretch of our bookkeeping at a time; return how many.

        What was stored for them becomes orphans.
        """
        row = await self._database.row(self._deserted, self._walked)
        assert row is not None
        self._walked = row["upto"] or ""
        deserted: int = row["deserted"]
        return deserted


def _failed_sql(shape: Shape) -> str:
    nothing = [
        "g.asset_url IS NULL",
        *(_empty(shape, name) for name in ("result_urls", "asset_urls") if shape.has(name)),
    ]
    return f"""
WITH old AS (
    SELECT g.id FROM public.generations g
     WHERE g.status = 'failed' AND g.created_at < now() - $1 * interval '1 day' AND {" AND ".join(nothing)}
       AND NOT EXISTS (SELECT FROM reconciler.assets a
                        WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL)
       AND NOT EXISTS (SELECT FROM reconciler.work w
                        WHERE w.generation_id = g.id::text AND w.gave_up AND w.due_at IS NOT NULL)
     ORDER BY g.id LIMIT {BATCH} FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM public.generations g USING old WHERE g.id = old.id RETURNING g.id::text AS id),
forgotten AS (DELETE FROM reconciler.work w USING gone WHERE w.generation_id = gone.id)
SELECT count(*) FROM gone"""


def _empty(shape: Shape, column: str) -> str:
    if shape.columns[column] == "text[]":
        return f"(g.{column} IS NULL OR cardinality(g.{column}) = 0)"
    return f"(g.{column} IS NULL OR g.{column}::text IN ('[]', 'null', ''))"


def _deserted_sql(shape: Shape) -> str:
    return f"""
WITH stretch AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id > $1 ORDER BY generation_id LIMIT {WALK}),
gone AS (
    DELETE FROM reconciler.work w USING stretch
     WHERE w.generation_id = stretch.generation_id AND (w.lease_until IS NULL OR w.lease_until < now())
       AND NOT EXISTS (SELECT FROM public.generations g WHERE g.id = stretch.generation_id::{shape.id_type})
    RETURNING w.generation_id),
objects AS (
    DELETE FROM reconciler.assets a USING gone WHERE a.generation_id = gone.generation_id RETURNING a.path),
left_behind AS (
    INSERT INTO reconciler.orphans (path, why) SELECT path, 'the generation was deleted' FROM objects
    ON CONFLICT DO NOTHING)
SELECT (SELECT count(*) FROM gone) AS deserted, (SELECT max(generation_id) FROM stretch) AS upto"""
