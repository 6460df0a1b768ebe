"""Callbacks, kept before anything is done about them; also the inbox for tasks that no row has yet.

A callback is kept, and its generations are found and made due, in one statement whose commit is durable. The HTTP
answer is the only word that KIE gets, so the process may die right after it. The callback route writes here, the visit
reads, `retention` deletes.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.domain.task_attribution import OrderFacts
from reconciler.errors import Permanent, Transient
from reconciler.net.large_json import off_loop
from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import (
    HAS_NO_TASK,
    IN_FLIGHT,
    OPEN_OR_UNHEALED,
    TASK_ID_IS_INDEXED,
    may_recover,
)
from reconciler.postgres.records import as_key
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

MOST = 16
"""The most bodies that are kept of one task: Suno sends three different ones, and no task needs more."""

FEW = 4
"""The most different bodies of one task that are believed: among more, some are forged, and the true may be lost."""

CROWD = 8
"""How many of the first, and of the last, offers of a task to one generation are kept: the true one is among them."""

STRANGERS = 8 << 20
"""Bytes of callbacks for unknown tasks that one process keeps in an hour: a leaked secret must not fill the disk."""

LEAST = 2 << 10
"""The bytes that even an empty callback counts for: its row and its index entries."""

HOUR = 3600.0

PAUSE = 2
"""Seconds until a generation with a callback is due by itself: the wake that follows comes first, so one visit does."""

SMALL = 4 << 20
"""Bytes up to which the application's table is searched for a task without an index: that takes milliseconds."""

# Returns the newest :limit bodies that came for a task.
_BODIES = Statement("SELECT body FROM reconciler.callbacks WHERE task_id = :task_id ORDER BY id DESC LIMIT :limit")

_RECOVERABLE = may_recover("found.id::text")
# Makes the rows of `found` due and wakes their holders. A row that is being written is passed over: its writer may wait
# for the application.
_WAKE = f"""at_hand AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w JOIN found ON w.generation_id = found.id::text
     WHERE w.due_at IS NOT NULL AND ({OPEN_OR_UNHEALED} OR {_RECOVERABLE})
     ORDER BY w.generation_id FOR UPDATE OF w SKIP LOCKED),
woken AS (
    UPDATE reconciler.work w
       SET due_at = least(w.due_at, now() + interval '{PAUSE} seconds'), woken = w.woken + 1, trigger = 'callback'
      FROM at_hand WHERE w.generation_id = at_hand.generation_id)"""

# Whole pairs of surrogates, and escaped backslashes that stand before an innocent u0000, are passed over.
_UNSTORABLE = re.compile(r"\\ud[89ab]..\\ud[c-f]..|(\\u(?:0000|d[89a-f]..))|\\.")


@dataclass(frozen=True, slots=True)
class CallbackMessage:
    """One callback; `digest` differs for two bodies, `generation_id` comes from the callback's address.

    `size` is the number of the body's bytes.
    """

    task_id: str
    generation_id: str | None
    body: Mapping[str, object]
    digest: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class StoredCallback:
    """What keeping it showed: whether the body is new, which generations have the task, whether all have ended."""

    fresh: bool
    ids: tuple[str, ...]
    ended: bool


class Inbox:
    """Keeps callbacks and returns their bodies."""

    def __init__(self, database: Database, table: PresentTable) -> None:
        self._database = database
        self._table = table
        self._keep = PerShape(table, _keep_sql)
        self._order_facts = PerShape(table, _order_facts_sql)
        self._spent = 0.0
        self._spent_at = time.monotonic()

    async def keep(self, message: CallbackMessage) -> StoredCallback:
        """Keep one callback durably; the same body once more is only counted.

        Transient when the database is away, the application's table cannot be used, or too much came for unknown tasks
        within an hour; Permanent when the body cannot be written as JSON.
        """
        body = await off_loop(message.size, storable, message.body)
        shape = self._table.shape
        key, room = as_key(message.generation_id or "", shape.id_type) or None, self._has_room()
        values = {"task_id": message.task_id, "digest": message.digest, "body": body}
        row = await self._database.row(*self._keep.of(shape)(generation_id=key, has_room=room, **values))
        assert row is not None
        if row["fresh"] is None:
            raise Transient("too many callbacks for unknown tasks in an hour", code="inbox_full", retry_after=60.0)
        if row["fresh"] and not row["ids"]:
            self._spent += max(len(body), LEAST)
        return StoredCallback(row["fresh"], tuple(row["ids"]), row["ended"])

    async def bodies(self, task_id: str) -> tuple[Mapping[str, object], ...]:
        """Return the bodies that came for this task, the newest first; none where more came than one task can have."""
        rows = await self._database.fetch(*_BODIES(task_id=task_id, limit=FEW + 1))
        if len(rows) > FEW:
            return ()
        return tuple([await off_loop(len(row["body"]), json.loads, row["body"]) for row in rows])

    async def order_facts(self, generation_id: str, task_id: str) -> OrderFacts:
        """Return what is known of this row's order and of a task that a callback offers to it."""
        row = await self._database.row(*self._order_facts.present(generation_id=generation_id, task_id=task_id))
        assert row is not None
        return OrderFacts(row["ordered_at"], row["taken"])

    def _has_room(self) -> bool:
        """Whether a callback for an unknown task may be kept now."""
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


def _searchable() -> str:
    """Return the first part of a WITH clause: whether public.generations can be searched for a task, asked each time.

    The table grows, and indexes come and go.
    """
    return f"""
WITH searchable (yes) AS MATERIALIZED (
    SELECT pg_relation_size(to_regclass('public.generations')) < {SMALL} OR {TASK_ID_IS_INDEXED})"""


def _order_facts_sql(table: TableShape) -> Statement:
    """Read when :generation_id was ordered, and whether :task_id belongs elsewhere; return ordered_at and taken.

    It does where another row has or had it as its last task, or a callback of it did not name this generation.
    """
    return Statement(f"""{_searchable()}
SELECT (SELECT w.ordered_at FROM reconciler.work w WHERE w.generation_id = :generation_id) AS ordered_at,
       EXISTS (SELECT FROM public.generations g
                WHERE g.task_id = :task_id AND g.id <> :generation_id::text::{table.id_type}
                  AND (SELECT yes FROM searchable))
    OR EXISTS (SELECT FROM reconciler.work w WHERE w.seen_task = :task_id AND w.generation_id <> :generation_id)
    OR EXISTS (SELECT FROM reconciler.callbacks c
                WHERE c.task_id = :task_id AND c.generation_id IS DISTINCT FROM :generation_id) AS taken""")


def _keep_sql(table: TableShape) -> Statement:
    """Find the rows of the task, write the callback, make the rows due; return fresh, ids and ended.

    A row that has another task is not found by its id: else a holder of the secret could wake any row, and fill the
    disk in its name. Without :has_room a callback for an unknown task is not written, and fresh is null.
    """
    columns = "SELECT g.id, g.status, g.asset_url FROM"
    return Statement(f"""
{_searchable()},
found AS MATERIALIZED (
    {columns} public.generations g WHERE g.task_id = :task_id AND (SELECT yes FROM searchable)
     UNION
    {columns} reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{table.id_type}
     WHERE w.seen_task = :task_id AND g.task_id = :task_id AND NOT (SELECT yes FROM searchable)
     UNION
    {columns} public.generations g
     WHERE {IN_FLIGHT} AND g.task_id = :task_id AND NOT (SELECT yes FROM searchable)
     UNION
    {columns} public.generations g
     WHERE g.id = :generation_id::text::{table.id_type} AND ({HAS_NO_TASK} OR g.task_id = :task_id)),
kept AS (
    INSERT INTO reconciler.callbacks AS c (task_id, digest, generation_id, body)
    SELECT :task_id, :digest, :generation_id, :body::text::jsonb
     WHERE :has_room::boolean OR EXISTS (SELECT FROM found)
    ON CONFLICT (task_id, digest) DO UPDATE SET count = c.count + 1
    RETURNING c.count = 1 AS fresh),
surplus AS (
    DELETE FROM reconciler.callbacks WHERE id = ANY (ARRAY(
        SELECT id FROM reconciler.callbacks WHERE task_id = :task_id ORDER BY id DESC OFFSET {MOST - 1}))),
crowd AS (
    DELETE FROM reconciler.callbacks WHERE id = ANY (ARRAY(
        SELECT id FROM (
            SELECT id, row_number() OVER (ORDER BY id) AS nth, row_number() OVER (ORDER BY id DESC) AS last
              FROM reconciler.callbacks
             WHERE generation_id = :generation_id AND EXISTS (SELECT FROM found)) AS offers
         WHERE nth > {CROWD} AND last >= {CROWD}))),
{_WAKE}
SELECT (SELECT fresh FROM kept) AS fresh,
       coalesce(array_agg(found.id::text ORDER BY found.id), '{{}}') AS ids,
       coalesce(bool_and(NOT {OPEN_OR_UNHEALED} AND NOT {_RECOVERABLE}), false) AS ended
  FROM found""")
