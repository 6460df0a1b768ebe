"""What callbacks said, kept before anything is done about it; also the inbox for tasks that no row knows yet.

A callback is kept, and its generations are found and made due, in one statement whose commit is durable: the answer
that follows is the only word KIE gets, and whoever gives it may die of it. The door writes here, the visit reads. What
grows old is deleted in `upkeep.py`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.domain.model import OPEN
from reconciler.errors import Permanent, Transient
from reconciler.postgres.pool import Database
from reconciler.postgres.reports import report_sql
from reconciler.postgres.reports.generation_details import as_key
from reconciler.postgres.schema import OPEN_OR_UNHEALED, TableShape

MOST = 16
"""Bodies that are kept of one task: Suno says three different things, and nobody has more to say."""

FEW = 4
"""Different bodies of one task that are listened to: where more came some lie, and may have crowded out the truth."""

CROWD = 8
"""Bodies that are kept of the first, and of the last, who offer a task to one generation: the true one is of them."""

STRANGERS = 8 << 20
"""Bytes of callbacks for unknown tasks that one process keeps in an hour: a leaked secret must not fill the disk."""

LEAST = 2 << 10
"""What even an empty callback counts for: its row, and its places in the indexes."""

HOUR = 3600.0

PAUSE = 2
"""Seconds until a generation with a callback is due by itself: time for the wake that follows, so that they are one."""

SMALL = 4 << 20
"""Bytes up to which the application's table is read through for a task where no index leads to it: milliseconds."""

_SAID = "SELECT body FROM reconciler.callbacks WHERE task_id = $1 ORDER BY id DESC LIMIT $2"

_MENDABLE = (
    "EXISTS (SELECT FROM reconciler.work w WHERE w.generation_id = found.id::text AND (w.gave_up OR w.reopened))"
)
# A row that is just being written is not waited for: its writer may wait for the application.
_ROUSED = f"""at_hand AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w JOIN found ON w.generation_id = found.id::text
     WHERE w.due_at IS NOT NULL AND ({OPEN_OR_UNHEALED} OR {_MENDABLE})
     ORDER BY w.generation_id FOR UPDATE OF w SKIP LOCKED),
roused AS (
    UPDATE reconciler.work w
       SET due_at = least(w.due_at, now() + interval '{PAUSE} seconds'), woken = w.woken + 1, trigger = 'callback'
      FROM at_hand WHERE w.generation_id = at_hand.generation_id)"""

# Whole pairs of surrogates, and escaped backslashes that stand before an innocent u0000, are passed over.
_UNSTORABLE = re.compile(r"\\ud[89ab]..\\ud[c-f]..|(\\u(?:0000|d[89a-f]..))|\\.")


@dataclass(frozen=True, slots=True)
class CallbackMessage:
    """One callback; `digest` tells two bodies apart, `generation_id` is what its address named."""

    task_id: str
    generation_id: str | None
    body: Mapping[str, object]
    digest: str


@dataclass(frozen=True, slots=True)
class StoredCallback:
    """What became of it: whether nobody had said it before, whose task it is, and whether all of those have ended."""

    fresh: bool
    ids: tuple[str, ...]
    ended: bool


class Inbox:
    """Keeps callbacks and tells what they said."""

    def __init__(self, database: Database, shape: TableShape) -> None:
        self._database = database
        self._id_type = shape.id_type
        self._keep = _keep_sql(shape)
        self._spent = 0.0
        self._spent_at = time.monotonic()

    async def keep(self, said: CallbackMessage) -> StoredCallback:
        """Keep one callback durably; a second of the same body is only counted.

        Transient when the database is away, or when unknown tasks have said too much in this hour; Permanent when the
        body cannot be written as JSON.
        """
        body = storable(said.body)
        named = as_key(said.generation_id, self._id_type) if said.generation_id else None
        row = await self._database.row(self._keep, said.task_id, said.digest, named, body, self._room())
        assert row is not None
        if row["fresh"] is None:
            raise Transient("too many callbacks for tasks that nobody knows", code="inbox_full", retry_after=60.0)
        if row["fresh"] and not row["ids"]:
            self._spent += max(len(body), LEAST)
        return StoredCallback(row["fresh"], tuple(row["ids"]), row["ended"])

    async def said(self, task_id: str) -> tuple[Mapping[str, object], ...]:
        """Return what came for this task, the newest first; nothing where more came than one task has to say."""
        rows = await self._database.fetch(_SAID, task_id, FEW + 1)
        if len(rows) > FEW:
            return ()
        return tuple(json.loads(row["body"]) for row in rows)

    def _room(self) -> bool:
        now = time.monotonic()
        self._spent = max(self._spent - (now - self._spent_at) * STRANGERS / HOUR, 0.0)
        self._spent_at = now
        return self._spent < STRANGERS


def storable(body: Mapping[str, object]) -> str:
    """Return the body as JSON that jsonb takes: U+FFFD stands for NUL and half pairs; Permanent where it is no JSON."""
    try:
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise Permanent("the body is no JSON that can be kept", code="unstorable") from None
    if "\\u0000" not in text and "\\ud" not in text:
        return text
    return _UNSTORABLE.sub(lambda found: r"\ufffd" if found[1] else found[0], text)


def _keep_sql(shape: TableShape) -> str:
    """$1 task, $2 digest, $3 the named generation, $4 body, $5 whether there is room for a task that nobody knows.

    The name of a row that has another task finds nothing: who knows the secret could else rouse any row, and fill the
    disk in its name. Whether the table can be searched for a task is asked each time: it grows, and indexes come and
    go. A row that is just being written is not waited for: its writer may wait for the application.
    """
    row = "SELECT g.id, g.status, g.asset_url FROM"
    open_words = ", ".join(f"'{word}'" for word in OPEN)
    return f"""
WITH searchable (yes) AS MATERIALIZED (
    SELECT pg_relation_size(to_regclass('public.generations')) < {SMALL} OR {report_sql.INDEXED}),
found AS MATERIALIZED (
    {row} public.generations g WHERE g.task_id = $1 AND (SELECT yes FROM searchable)
     UNION
    {row} reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{shape.id_type}
     WHERE w.seen_task = $1 AND g.task_id = $1 AND NOT (SELECT yes FROM searchable)
     UNION
    {row} public.generations g
     WHERE g.status IN ({open_words}) AND g.task_id = $1 AND NOT (SELECT yes FROM searchable)
     UNION
    {row} public.generations g
     WHERE g.id = $3::text::{shape.id_type} AND (g.task_id IS NULL OR g.task_id = $1)),
kept AS (
    INSERT INTO reconciler.callbacks AS c (task_id, digest, generation_id, body)
    SELECT $1, $2, $3, $4::text::jsonb WHERE $5::boolean OR EXISTS (SELECT FROM found)
    ON CONFLICT (task_id, digest) DO UPDATE SET count = c.count + 1
    RETURNING c.count = 1 AS fresh),
surplus AS (
    DELETE FROM reconciler.callbacks WHERE id = ANY (ARRAY(
        SELECT id FROM reconciler.callbacks WHERE task_id = $1 ORDER BY id DESC OFFSET {MOST - 1}))),
crowd AS (
    DELETE FROM reconciler.callbacks WHERE id = ANY (ARRAY(
        SELECT id FROM (
            SELECT id, row_number() OVER (ORDER BY id) AS nth, row_number() OVER (ORDER BY id DESC) AS last
              FROM reconciler.callbacks WHERE generation_id = $3 AND EXISTS (SELECT FROM found)) AS offers
         WHERE nth > {CROWD} AND last >= {CROWD}))),
{_ROUSED}
SELECT (SELECT fresh FROM kept) AS fresh,
       coalesce(array_agg(found.id::text ORDER BY found.id), '{{}}') AS ids,
       coalesce(bool_and(NOT {OPEN_OR_UNHEALED} AND NOT {_MENDABLE}), false) AS ended
  FROM found"""
