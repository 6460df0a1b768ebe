"""What grows old: failed generations with nothing stored, and our own records.

The leader calls this once an hour, and `cleanup` does (`worker/periodic/retention.py`). Every statement is bounded,
so that no lock is held for long. Stored objects that no row names are in `orphans`.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import asyncpg

from reconciler.postgres.eligibility import LONGEST_TASK
from reconciler.postgres.pool import StatementRunner
from reconciler.postgres.predicates import (
    CREATED,
    LEASE_IS_FREE,
    TASK,
    mark_orphans,
)
from reconciler.postgres.schema import UNSEEN, TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

BATCH = 500

REFUSED = (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError)
"""Errors by which a foreign key or a trigger of the application refuses to let a row be deleted."""

EVENTS = 5_000
"""Events that one statement deletes; nothing else writes those events any more."""

EVENT_BATCHES = 40
"""Such statements in one round: enough for a shop with a hundred thousand events an hour."""

WALK = 20_000
"""Rows of our bookkeeping that one round compares with the application's table, to find deleted generations."""

_OLD_RECORDS = (
    "DELETE FROM reconciler.instances WHERE seen_at < now() - interval '1 day'",
    """DELETE FROM reconciler.requests WHERE (caller, key) IN (
           SELECT caller, key FROM reconciler.requests WHERE at < now() - interval '3 days' ORDER BY at LIMIT 5000)""",
    """DELETE FROM reconciler.user_orders WHERE user_id IN (
           SELECT user_id FROM reconciler.user_orders WHERE at < now() - interval '7 days' ORDER BY at LIMIT 5000)""",
    # Only the oldest are looked at. KIE keeps results for 14 days: a task that no row had by then belongs to none.
    """DELETE FROM reconciler.callbacks WHERE id IN (
           SELECT oldest.id FROM (SELECT id, task_id, at FROM reconciler.callbacks ORDER BY id LIMIT 50000) oldest
            WHERE at < now() - interval '30 days'
               OR (at < now() - interval '14 days'
                   AND NOT EXISTS (SELECT FROM reconciler.work w WHERE w.seen_task = oldest.task_id)))""",
)

# Deletes the oldest events of more than 30 days and returns how many; where webhooks are sent (:webhooks), one that was
# neither sent nor given up stays. As an array: the planner would take 5,000 ids for a reason to read the whole table.
_OLD_EVENTS = Statement(f"""
WITH gone AS (
    DELETE FROM reconciler.events WHERE id = ANY (ARRAY(
        SELECT id FROM reconciler.events
         WHERE at < now() - interval '30 days' AND (announced_at IS NOT NULL OR dead_at IS NOT NULL OR NOT :webhooks)
         ORDER BY id LIMIT {EVENTS}))
    RETURNING id)
SELECT count(*) FROM gone""")

# Reads the next :limit rows of `work` behind :after; gives the deliveries among them that have no time for their audit
# one within 30 days.
_ENROL = Statement("""
WITH stretch AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id > :after ORDER BY generation_id LIMIT :limit),
unaudited AS (
    SELECT w.generation_id FROM reconciler.work w JOIN stretch USING (generation_id)
     WHERE w.delivered_at IS NOT NULL AND w.audit_at IS NULL AND w.due_at IS NULL
     ORDER BY w.generation_id FOR UPDATE OF w SKIP LOCKED)
UPDATE reconciler.work w SET audit_at = now() + random() * interval '30 days'
  FROM unaudited WHERE w.generation_id = unaudited.generation_id""")

# Returns the id at a random place of `work`, no row where the table has fewer than :walk rows.
_ANYWHERE = Statement("""
WITH size AS (SELECT greatest(reltuples, 0) AS rows FROM pg_class WHERE oid = 'reconciler.work'::regclass::oid)
SELECT generation_id FROM reconciler.work WHERE (SELECT rows FROM size) > :walk
 ORDER BY generation_id OFFSET (SELECT floor(random() * rows)::bigint FROM size) LIMIT 1""")


@dataclass(frozen=True, slots=True)
class DeletedBatch:
    """How many failed generations one statement deleted; `after` is where the next one continues, None at the end."""

    count: int
    after: tuple[str, str] | None


class Retention:
    """Deletes what the settings call too old, and what has lost its generation.

    `term` is a lease's length in seconds; `webhooks` is whether events are sent to a receiver. With a CheckedDatabase
    nothing is deleted while the database's clock cannot be trusted.
    """

    def __init__(self, database: StatementRunner, table: PresentTable, *, term: float, webhooks: bool = False) -> None:
        self._database = database
        self._term = timedelta(seconds=term)
        self._webhooks = webhooks
        self._walked: str | None = None
        self._delete_failed = PerShape(table, partial(_failed_sql, delete=True))
        self._delete_rows = PerShape(table, partial(_failed_sql, delete=True, by=_DELETE_ROWS))
        self._count_failed = PerShape(table, partial(_failed_sql, delete=False))
        self._deserted = PerShape(table, _deserted_sql)

    async def failed(
        self, older: timedelta, *, after: tuple[str, str] | None = None, dry_run: bool = False
    ) -> DeletedBatch:
        """Delete the next generations that failed longer ago with nothing stored, or only count them."""
        statement = self._count_failed.present if dry_run else await self._deletion()
        try:
            return await self._batch(statement, older, after, BATCH)
        except REFUSED:
            return await self._each(statement, older, after)

    async def _deletion(self) -> Statement:
        """Return the statement that deletes: by our function, or by rights of the login's own where it may not."""
        return (self._delete_failed if await self._database.value(_MAY_CALL) else self._delete_rows).present

    async def _batch(
        self, statement: Statement, older: timedelta, after: tuple[str, str] | None, limit: int
    ) -> DeletedBatch:
        at, generation_id = after or (None, None)
        parameters = {"older": older, "after_at": at, "after_id": generation_id, "limit": limit, "term": self._term}
        row = await self._database.row(*statement(**parameters))
        assert row is not None
        return DeletedBatch(row["count"], (row["at"], row["id"]) if row["looked"] == limit else None)

    async def _each(self, deletion: Statement, older: timedelta, after: tuple[str, str] | None) -> DeletedBatch:
        """Delete a batch one by one and pass over the rows whose deletion the application's table refuses."""
        count = 0
        for _ in range(BATCH):
            try:
                one = await self._batch(deletion, older, after, 1)
                count += one.count
            except REFUSED:
                one = await self._batch(self._count_failed.present, older, after, 1)
            after = one.after
            if after is None:
                break
        return DeletedBatch(count, after)

    async def enrol(self) -> None:
        """Plan an audit for deliveries of the next stretch that have none, because they are older than audits."""
        await self._database.execute(*_ENROL(after=await self._start(), limit=WALK))

    async def traces(self) -> None:
        """Delete old instances, events, requests and callbacks; an event that is still to be sent stays."""
        for _ in range(EVENT_BATCHES):
            if await self._database.value(*_OLD_EVENTS(webhooks=self._webhooks)) < EVENTS:
                break
        for sql in _OLD_RECORDS:
            await self._database.execute(sql)

    async def deserted(self) -> int:
        """Forget generations that the application deleted, one stretch of our bookkeeping a call; return how many.

        Their stored objects become orphans.
        """
        row = await self._database.row(*self._deserted.present(after=await self._start(), term=self._term))
        assert row is not None
        self._walked = row["upto"] or ""
        deserted: int = row["deserted"]
        return deserted

    async def _start(self) -> str:
        """Return where the walk continues; it begins at a random place, as few processes live for a whole walk."""
        if self._walked is None:
            self._walked = await self._database.value(*_ANYWHERE(walk=WALK)) or ""
        return self._walked


_DELETE_FAILED = "SELECT d.id FROM reconciler.delete_failed(ARRAY(SELECT id::text FROM old)) AS d (id)"
_DELETE_ROWS = (
    "DELETE FROM public.generations g WHERE g.id = ANY (ARRAY(SELECT id FROM old)) RETURNING g.id::text AS id"
)

# Returns whether this login may call our function; the database lacks it before `078_delete_failed.sql`.
_MAY_CALL = """
SELECT coalesce(has_function_privilege(to_regprocedure('reconciler.delete_failed(text[])')::oid, 'EXECUTE'), false)"""

# Objects whose upload began and was never proven may be in storage all the same.
_MARK_OBJECTS = f"""
objects AS (DELETE FROM reconciler.assets a USING gone WHERE a.generation_id = gone.id RETURNING a.path),
left_behind AS ({mark_orphans("the generation was deleted", "objects")})"""
_FORGET = f""",
forgotten AS (DELETE FROM reconciler.work w USING gone WHERE w.generation_id = gone.id),{_MARK_OBJECTS}"""


def _failed_sql(table: TableShape, *, delete: bool, by: str = _DELETE_FAILED) -> Statement:
    """Read the next :limit failed rows behind :after_at, :after_id; return count, looked and place.

    Rows are read in the order of their creation; no row failed before. With `delete`, delete those that failed longer
    than :older ago, have nothing stored and are not asked about any more, with their bookkeeping; and note the time
    where nothing tells when a row failed. The bookkeeping is locked first, as everywhere (`ledger`): a row that a visit
    holds, or that was reopened meanwhile, stays. `by` is the query that deletes the rows `old`.
    """
    empty = [_empty(table, name) for name in ("result_urls", "asset_urls") if table.has(name)]
    place = f"coalesce(:after_at::text, '-infinity')::{table.columns['created_at']}"
    gone = "SELECT id::text AS id FROM old"
    if delete:
        gone = by
    return Statement(f"""
WITH stretch AS MATERIALIZED (
    SELECT g.id, g.created_at FROM public.generations g
     WHERE g.status = 'failed' AND g.asset_url IS NULL AND g.created_at < now() - :older::interval
       AND g.created_at >= {place}
       AND (:after_at::text IS NULL OR (g.created_at, g.id) > ({place}, :after_id::text::{table.id_type}))
     ORDER BY g.created_at, g.id LIMIT :limit),
at_rest AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w
     WHERE w.generation_id = ANY (ARRAY(SELECT id::text FROM stretch)) AND {LEASE_IS_FREE}
       AND NOT ((w.gave_up OR w.reopened) AND w.due_at IS NOT NULL)
     {"ORDER BY w.generation_id FOR UPDATE SKIP LOCKED" if delete else ""}),
known (ids, tasks, created, updated) AS MATERIALIZED (
    SELECT array_agg(g.id::text), array_agg({TASK}), array_agg({CREATED}), array_agg({_updated(table)})
      FROM public.generations g
     WHERE g.id = ANY (ARRAY(SELECT id FROM stretch))
       AND (g.id::text IN (SELECT generation_id FROM at_rest)
            OR NOT EXISTS (SELECT FROM reconciler.work w WHERE w.generation_id = g.id::text))),
failed AS MATERIALIZED (
    SELECT f.id::{table.id_type}, f.at
      FROM known, reconciler.failure_times(known.ids, known.tasks, known.created, known.updated) AS f),
old AS (
    SELECT g.id FROM public.generations g
     WHERE g.id = ANY (ARRAY(SELECT id FROM failed WHERE at < now() - :older::interval))
       AND {" AND ".join(["g.status = 'failed'", "g.asset_url IS NULL", *empty])}
       AND NOT EXISTS (SELECT FROM reconciler.assets a
                        WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL)
     {"FOR UPDATE OF g SKIP LOCKED" if delete else ""}),
gone AS ({gone}){_FORGET + _NOTED if delete else ""}
SELECT (SELECT count(*) FROM gone) AS count, (SELECT count(*) FROM stretch) AS looked, last.at, last.id
  FROM (SELECT NULL) AS one LEFT JOIN (
       SELECT s.created_at::text AS at, s.id::text AS id FROM stretch s ORDER BY s.created_at DESC, s.id DESC LIMIT 1
       ) AS last ON true""")


def _updated(table: TableShape) -> str:
    """Return when a row was last changed, NULL where the table does not tell."""
    told = table.columns.get("updated_at") in {"timestamp with time zone", "timestamp without time zone", "date"}
    return "g.updated_at::timestamptz" if told else "NULL::timestamptz"


# Notes that the rows of the CTE `failed` of which nothing is known were seen to have failed.
_NOTED = f""",
noted AS (
    INSERT INTO reconciler.work AS w (generation_id, seen_status, seen_task, failed_at)
    SELECT g.id::text, 'failed', CASE WHEN octet_length(g.task_id) <= {LONGEST_TASK} THEN {TASK} END, now()
      FROM public.generations g JOIN failed ON failed.id = g.id WHERE failed.at IS NULL AND g.status = 'failed'
    ON CONFLICT (generation_id) DO UPDATE SET failed_at = excluded.failed_at)"""


def _empty(table: TableShape, column: str) -> str:
    if table.columns[column] == "text[]":
        return f"(g.{column} IS NULL OR cardinality(g.{column}) = 0)"
    return f"(g.{column} IS NULL OR g.{column}::text IN ('[]', 'null', ''))"


def _deserted_sql(table: TableShape) -> Statement:
    """Delete bookkeeping and receipts of the next WALK rows behind :after that the application's table has no more.

    Their objects become orphans. Returns how many rows that were, and the last id that was read.
    """
    return Statement(f"""
WITH stretch AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id > :after ORDER BY generation_id LIMIT {WALK}),
gone AS (
    DELETE FROM reconciler.work w USING stretch
     WHERE w.generation_id = stretch.generation_id AND {LEASE_IS_FREE}
       AND NOT EXISTS (SELECT FROM public.generations g WHERE g.id = stretch.generation_id::{table.id_type})
       -- Row security may have been turned on since we began: a row that it hides was not deleted.
       AND NOT EXISTS ({UNSEEN})
    RETURNING w.generation_id AS id),{_MARK_OBJECTS}
SELECT (SELECT count(*) FROM gone) AS deserted, (SELECT max(generation_id) FROM stretch) AS upto""")
