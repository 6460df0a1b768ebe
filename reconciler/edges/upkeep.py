"""What grows old: failed generations with nothing stored, and our own traces.

Only the leader calls this, once an hour; every statement is bounded, so that no lock is held for long.
"""

from __future__ import annotations

from reconciler.edges.db import Database
from reconciler.edges.schema import Shape

BATCH = 500

_TRACES = (
    "DELETE FROM reconciler.instances WHERE seen_at < now() - interval '1 day'",
    """DELETE FROM reconciler.events WHERE id IN (
           SELECT id FROM reconciler.events
            WHERE announced_at IS NOT NULL AND at < now() - interval '30 days' ORDER BY id LIMIT 5000)""",
    """DELETE FROM reconciler.callbacks WHERE id IN (
           SELECT id FROM reconciler.callbacks WHERE at < now() - interval '30 days' ORDER BY id LIMIT 5000)""",
)


class Upkeep:
    """Deletes what the settings call too old."""

    def __init__(self, database: Database, shape: Shape) -> None:
        self._database = database
        nothing = "g.asset_url IS NULL"
        if shape.has("result_urls"):
            empty = (
                "cardinality(g.result_urls) = 0"
                if shape.columns["result_urls"] == "text[]"
                else ("g.result_urls::text IN ('[]', 'null', '')")
            )
            nothing += f" AND (g.result_urls IS NULL OR {empty})"
        self._failed = f"""
WITH old AS (
    SELECT g.id FROM public.generations g
     WHERE g.status = 'failed' AND g.created_at < now() - $1 * interval '1 day' AND {nothing}
       AND NOT EXISTS (SELECT FROM reconciler.assets a
                        WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL)
     ORDER BY g.id LIMIT {BATCH} FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM public.generations g USING old WHERE g.id = old.id RETURNING g.id::text AS id),
forgotten AS (DELETE FROM reconciler.work w USING gone WHERE w.generation_id = gone.id)
SELECT count(*) FROM gone"""

    async def failed(self, days: int) -> int:
        """Delete one batch of failed generations older than so many days with nothing stored; return how many."""
        deleted: int = await self._database.value(self._failed, days)
        return deleted

    async def traces(self) -> None:
        """Delete instances, announced events and callbacks that nobody will ask about again."""
        for statement in _TRACES:
            await self._database.execute(statement)
