"""What grows old: failed generations with nothing stored, objects that nobody names, and our own traces.

The leader calls this once an hour, and `cleanup` (`engine/cleaning.py`); every statement is bounded, so that no lock is
held for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from reconciler.edges.db import Database
from reconciler.edges.schema import Shape

BATCH = 500

EVENTS = 5_000
"""Events that one statement deletes; nobody else writes those."""

EVENT_BATCHES = 40
"""Such statements in one round, so that a shop with a hundred thousand events an hour does not outrun them."""

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

# Where somebody is to be told ($1), what is neither told nor given up waits for as long as it takes. As an array, for
# the planner would take 5,000 ids for a reason to read the whole table, at every batch.
_EVENTS = f"""
WITH gone AS (
    DELETE FROM reconciler.events WHERE id = ANY (ARRAY(
        SELECT id FROM reconciler.events
         WHERE at < now() - interval '30 days' AND (announced_at IS NOT NULL OR dead_at IS NOT NULL OR NOT $1)
         ORDER BY id LIMIT {EVENTS}))
    RETURNING id)
SELECT count(*) FROM gone"""

_AUDITED = """
WITH stretch AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id > $1 ORDER BY generation_id LIMIT $2),
unaudited AS (
    SELECT w.generation_id FROM reconciler.work w JOIN stretch USING (generation_id)
     WHERE w.delivered_at IS NOT NULL AND w.audit_at IS NULL AND w.due_at IS NULL
     ORDER BY w.generation_id FOR UPDATE OF w SKIP LOCKED)
UPDATE reconciler.work w SET audit_at = now() + random() * interval '30 days'
  FROM unaudited WHERE w.generation_id = unaudited.generation_id"""

_ORPHANS = """
SELECT path FROM reconciler.orphans WHERE since < now() - $1::interval AND path > $2 ORDER BY path LIMIT $3"""

WALK = 20_000
"""Rows of our bookkeeping that one round looks at for generations that the application has deleted."""


@dataclass(frozen=True, slots=True)
class Batch:
    """How many failed generations one statement deleted; `after` is where to go on, None at the end."""

    count: int
    after: tuple[str, str] | None


class Upkeep:
    """Deletes what the settings call too old, and what has lost its generation."""

    def __init__(self, database: Database, shape: Shape, *, announces: bool = False) -> None:
        """`announces`: events are told to somebody."""
        self._database = database
        self._announces = announces
        self._walked = ""
        self._failed = _failed_sql(shape, delete=True)
        self._would_fail = _failed_sql(shape, delete=False)
        self._named = _named_sql(shape)
        self._deserted = _deserted_sql(shape)

    async def failed(self, older: timedelta, *, after: tuple[str, str] | None = None, dry_run: bool = False) -> Batch:
        """Delete the next failed generations older than this with nothing stored, or only count them."""
        sql = self._would_fail if dry_run else self._failed
        row = await self._database.row(sql, older, *(after or (None, None)))
        assert row is not None
        return Batch(row["count"], (row["at"], row["id"]) if row["looked"] == BATCH else None)

    async def orphans(self, older: timedelta, after: str = "") -> tuple[list[str], str | None]:
        """Return marked objects that nobody names, of the next BATCH marks older than this, and where to go on."""
        rows = await self._database.fetch(_ORPHANS, older, after, BATCH)
        marked = [row["path"] for row in rows]
        named = {row["path"] for row in await self._database.fetch(self._named, marked)} if marked else set()
        return [path for path in marked if path not in named], marked[-1] if len(marked) == BATCH else None

    async def removed(self, paths: Sequence[str]) -> None:
        """These objects are gone: their marks go."""
        await self._database.execute("DELETE FROM reconciler.orphans WHERE path = ANY($1)", list(paths))

    async def enrol(self) -> None:
        """Give deliveries of the next stretch that have none, being older than audits, a time for theirs."""
        await self._database.execute(_AUDITED, self._walked, WALK)

    async def traces(self) -> None:
        """Delete instances, events and callbacks that nobody will ask about again; an event to be told stays."""
        for _ in range(EVENT_BATCHES):
            if await self._database.value(_EVENTS, self._announces) < EVENTS:
                break
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


def _failed_sql(shape: Shape, *, delete: bool) -> str:
    nothing = [_empty(shape, name) for name in ("result_urls", "asset_urls") if shape.has(name)]
    place = "coalesce($2::text, '-infinity')"
    gone = "SELECT id::text AS id FROM old"
    if delete:
        gone = "DELETE FROM public.generations WHERE id = ANY (ARRAY(SELECT id FROM old)) RETURNING id::text AS id"
    return f"""
WITH stretch AS MATERIALIZED (
    SELECT g.id, g.created_at FROM public.generations g
     WHERE g.status = 'failed' AND g.asset_url IS NULL AND g.created_at < now() - $1::interval
       AND g.created_at >= {place}::{shape.columns["created_at"]}
       AND ($2::text IS NULL OR (g.created_at, g.id)
                                > ({place}::{shape.columns["created_at"]}, $3::text::{shape.id_type}))
     ORDER BY g.created_at, g.id LIMIT {BATCH}),
old AS (
    SELECT g.id FROM public.generations g
     WHERE g.id = ANY (ARRAY(SELECT id FROM stretch))
       AND {" AND ".join(["g.status = 'failed'", "g.asset_url IS NULL", *nothing])}
       AND NOT EXISTS (SELECT FROM reconciler.assets a
                        WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL)
       AND NOT EXISTS (SELECT FROM reconciler.work w
                        WHERE w.generation_id = g.id::text AND w.gave_up AND w.due_at IS NOT NULL)
     {"FOR UPDATE OF g SKIP LOCKED" if delete else ""}),
gone AS ({gone}){_FORGOTTEN if delete else ""}
SELECT (SELECT count(*) FROM gone) AS count, (SELECT count(*) FROM stretch) AS looked, last.at, last.id
  FROM (SELECT NULL) AS one LEFT JOIN (
       SELECT s.created_at::text AS at, s.id::text AS id FROM stretch s ORDER BY s.created_at DESC, s.id DESC LIMIT 1
       ) AS last ON true"""


# What was begun for them and never proven may be in storage all the same.
_FORGOTTEN = """,
forgotten AS (DELETE FROM reconciler.work w USING gone WHERE w.generation_id = gone.id),
objects AS (DELETE FROM reconciler.assets a USING gone WHERE a.generation_id = gone.id RETURNING a.path),
left_behind AS (
    INSERT INTO reconciler.orphans (path, why) SELECT path, 'the generation was deleted' FROM objects
    ON CONFLICT DO NOTHING)"""


def _named_sql(shape: Shape) -> str:
    """Of these paths, those that a receipt, an intention or any row of the application's names."""
    # The last three parts of an address are a path of ours, whatever the host is called today.
    shown = "substring(split_part(g.asset_url, '?', 1) from '[^/]+/[^/]+/[^/]+$')"
    original = "UNION SELECT g.original_path::text FROM public.generations g WHERE g.original_path = ANY($1)"
    return f"""
SELECT a.path FROM reconciler.assets a WHERE a.path = ANY($1)
 UNION SELECT {shown} FROM public.generations g WHERE {shown} = ANY($1)
 {original if shape.has("original_path") else ""}"""


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
