"""What grows old: failed generations with nothing stored, objects that nobody names, and our own traces.

The leader calls this once an hour, and `cleanup` (`worker/prune.py`); every statement is bounded, so that no lock is
held for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from reconciler.postgres.pool import Database
from reconciler.postgres.schema import UNSEEN, TableShape

BATCH = 500

REFUSED = (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError)
"""What a foreign key or a trigger of the application's says to a row's deletion."""

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


_ANYWHERE = """
WITH size AS (SELECT greatest(reltuples, 0) AS rows FROM pg_class WHERE oid = 'reconciler.work'::regclass)
SELECT generation_id FROM reconciler.work WHERE (SELECT rows FROM size) > $1
 ORDER BY generation_id OFFSET (SELECT floor(random() * rows)::bigint FROM size) LIMIT 1"""


@dataclass(frozen=True, slots=True)
class DeletedBatch:
    """How many failed generations one statement deleted; `after` is where to go on, None at the end."""

    count: int
    after: tuple[str, str] | None


class Retention:
    """Deletes what the settings call too old, and what has lost its generation."""

    def __init__(self, database: Database, shape: TableShape, *, announces: bool = False) -> None:
        """`announces`: events are told to somebody."""
        self._database = database
        self._announces = announces
        self._walked: str | None = None
        self._failed = _failed_sql(shape, delete=True)
        self._would_fail = _failed_sql(shape, delete=False)
        self._named_first = _named_sql(shape, first=True)
        self._named = _named_sql(shape, first=False)
        self._deserted = _deserted_sql(shape)

    async def failed(
        self, older: timedelta, *, after: tuple[str, str] | None = None, dry_run: bool = False
    ) -> DeletedBatch:
        """Delete the next failed generations older than this with nothing stored, or only count them."""
        sql = self._would_fail if dry_run else self._failed
        try:
            return await self._batch(sql, older, after, BATCH)
        except REFUSED:
            return await self._each(older, after)

    async def _batch(self, sql: str, older: timedelta, after: tuple[str, str] | None, limit: int) -> DeletedBatch:
        row = await self._database.row(sql, older, *(after or (None, None)), limit)
        assert row is not None
        return DeletedBatch(row["count"], (row["at"], row["id"]) if row["looked"] == limit else None)

    async def _each(self, older: timedelta, after: tuple[str, str] | None) -> DeletedBatch:
        """Delete a batch's failures one by one, past those that the application's table will not let go."""
        count = 0
        for _ in range(BATCH):
            try:
                one = await self._batch(self._failed, older, after, 1)
                count += one.count
            except REFUSED:
                one = await self._batch(self._would_fail, older, after, 1)
            after = one.after
            if after is None:
                break
        return DeletedBatch(count, after)

    async def orphans(self, older: timedelta, after: str = "") -> tuple[list[str], str | None]:
        """Return marked objects that nobody names, of the next BATCH marks older than this, and where to go on."""
        rows = await self._database.fetch(_ORPHANS, older, after, BATCH)
        marked = [row["path"] for row in rows]
        named = await self._names(marked) if marked else set()
        return [path for path in marked if path not in named], marked[-1] if len(marked) == BATCH else None

    async def _names(self, marked: Sequence[str]) -> set[str]:
        """Those of these that somebody names, by a walk over the whole table in short statements."""
        named: set[str] = set()
        rows = await self._database.fetch(self._named_first, marked, WALK)
        while True:
            *found, end = sorted(rows, key=lambda row: row["looked"] is not None)
            named |= {row["path"] for row in found}
            if end["looked"] < WALK:
                return named
            rows = await self._database.fetch(self._named, marked, WALK, end["path"])

    async def removed(self, paths: Sequence[str]) -> None:
        """These objects are gone: their marks go."""
        await self._database.execute("DELETE FROM reconciler.orphans WHERE path = ANY($1)", list(paths))

    async def enrol(self) -> None:
        """Give deliveries of the next stretch that have none, being older than audits, a time for theirs."""
        await self._database.execute(_AUDITED, await self._start(), WALK)

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
        row = await self._database.row(self._deserted, await self._start())
        assert row is not None
        self._walked = row["upto"] or ""
        deserted: int = row["deserted"]
        return deserted

    async def _start(self) -> str:
        """Where the walk goes on; at first anywhere, since a process seldom lives as long as a walk takes."""
        if self._walked is None:
            self._walked = await self._database.value(_ANYWHERE, WALK) or ""
        return self._walked


def _failed_sql(shape: TableShape, *, delete: bool) -> str:
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
     ORDER BY g.created_at, g.id LIMIT $4),
old AS (
    SELECT g.id FROM public.generations g
     WHERE g.id = ANY (ARRAY(SELECT id FROM stretch))
       AND {" AND ".join(["g.status = 'failed'", "g.asset_url IS NULL", *nothing])}
       AND NOT EXISTS (SELECT FROM reconciler.assets a
                        WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL)
       AND NOT EXISTS (SELECT FROM reconciler.work w
                        WHERE w.generation_id = g.id::text AND (w.gave_up OR w.reopened) AND w.due_at IS NOT NULL)
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


def _named_sql(shape: TableShape, *, first: bool) -> str:
    """Of these paths, those that a receipt or an intention names, or one of the next $2 rows by id (after $3).

    The last row tells how many were looked at and where they end.
    """
    lists = [name for name in ("asset_urls", "preview_url") if shape.has(name)]
    names = ["asset_url", *lists, *(["original_path"] if shape.has("original_path") else [])]
    start = "" if first else f"WHERE g.id > $3::text::{shape.id_type}"
    addresses = ["SELECT s.asset_url FROM span s", *(_listed_sql(shape.columns[name], name) for name in lists)]
    if shape.has("original_path"):
        addresses.append("SELECT s.original_path::text FROM span s")
    # The last three parts of an address are a path of ours, whatever the host is called today. By the last one first:
    # an expression for all three costs twenty times as much.
    return f"""
WITH span AS MATERIALIZED (
    SELECT g.id, {", ".join(f"g.{name}" for name in names)} FROM public.generations g {start} ORDER BY g.id LIMIT $2),
shown (address) AS ({" UNION ALL ".join(addresses)})
SELECT a.path, NULL::bigint AS looked FROM reconciler.assets a WHERE a.path = ANY($1)
 UNION
SELECT substring(split_part(address, '?', 1) from '[^/]+/[^/]+/[^/]+$'), NULL FROM shown
 WHERE split_part(split_part(address, '?', 1), '/', -1)
       IN (SELECT split_part(path, '/', -1) FROM unnest($1::text[]) AS path)
 UNION ALL
SELECT (SELECT s.id::text FROM span s ORDER BY s.id DESC LIMIT 1), count(*) FROM span"""


def _listed_sql(kind: str, name: str) -> str:
    text = f"to_jsonb(s.{name})::text" if kind.endswith("[]") else rf"replace(s.{name}::text, '\/', '/')"
    return f"""SELECT part FROM span s, string_to_table({text}, '"') AS part"""


def _empty(shape: TableShape, column: str) -> str:
    if shape.columns[column] == "text[]":
        return f"(g.{column} IS NULL OR cardinality(g.{column}) = 0)"
    return f"(g.{column} IS NULL OR g.{column}::text IN ('[]', 'null', ''))"


def _deserted_sql(shape: TableShape) -> str:
    return f"""
WITH stretch AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id > $1 ORDER BY generation_id LIMIT {WALK}),
gone AS (
    DELETE FROM reconciler.work w USING stretch
     WHERE w.generation_id = stretch.generation_id AND (w.lease_until IS NULL OR w.lease_until < now())
       AND NOT EXISTS (SELECT FROM public.generations g WHERE g.id = stretch.generation_id::{shape.id_type})
       -- Row security may have been turned on since we began: what it hides is not deleted.
       AND NOT EXISTS ({UNSEEN})
    RETURNING w.generation_id),
objects AS (
    DELETE FROM reconciler.assets a USING gone WHERE a.generation_id = gone.generation_id RETURNING a.path),
left_behind AS (
    INSERT INTO reconciler.orphans (path, why) SELECT path, 'the generation was deleted' FROM objects
    ON CONFLICT DO NOTHING)
SELECT (SELECT count(*) FROM gone) AS deserted, (SELECT max(generation_id) FROM stretch) AS upto"""
