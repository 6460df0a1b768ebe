"""What our own createTask keeps in the database: the row before the task, Idempotency-Keys, the rate, the task's id.

The row is written before KIE is asked and its task id when KIE has answered; what lies between says so itself
(`work.ordered_at`). Called by `worker/create/create_task.py` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

import asyncpg

from reconciler.domain.model import OPEN
from reconciler.errors import Config, Permanent
from reconciler.postgres.ledger.task_history import given
from reconciler.postgres.pool import SOON, Database
from reconciler.postgres.reports.generation_details import as_key
from reconciler.postgres.schema import TableShape

T = TypeVar("T")

WINDOW = 10.0
"""Seconds in which KIE counts createTask requests, by its documentation."""

SLACK = 1.0
"""Seconds by which our window is longer: KIE counts when a request comes, we when it was granted."""

LONGEST_SHUT = 60.0
"""Seconds that a key rests at most after KIE says that we are too fast; a clock that jumped must not make it a day."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made, and for whom (None: nobody); `model` is KIE's name, `model_key` the application's."""

    model: str
    input: Mapping[str, object]
    kind: str
    prompt: str | None = None
    model_key: str | None = None
    user_id: str | None = None

    def digest(self) -> str:
        """Return what tells this order from another under the same Idempotency-Key."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks (a user's id, "" for the operator), and under which Idempotency-Key, None without one."""

    caller: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationState:
    """How a generation stands now."""

    status: str
    task_id: str | None


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What an Idempotency-Key was used for; `standing` is None where the application has deleted the row."""

    digest: str
    generation_id: str
    standing: GenerationState | None


_WAITING = ("queued", "pending", "processing", "generating")

_CLAIM = (
    "INSERT INTO reconciler.requests (caller, key, digest) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true"
)
_NAMED = "UPDATE reconciler.requests SET generation_id = $3 WHERE caller = $1 AND key = $2"
# Not due while KIE is being asked, and as we saw it: so no replica visits it for its own notification.
_BOOKED = """
INSERT INTO reconciler.work (generation_id, due_at, seen_status, ordered_at)
VALUES ($1, now() + $2 * interval '1 second', $3, now())
"""

_REFUSED = "UPDATE reconciler.work SET refused = $2 WHERE generation_id = $1 AND refused IS DISTINCT FROM $2"

# The clock is read with the key's row locked. What lies in the future was written before the clock was set back.
_RECENT = """(SELECT count(*) FROM unnest(c.recent) AS t (at)
               WHERE at > clock_timestamp() - $3::interval AND at <= clock_timestamp() + $3::interval)"""
_SHUT = "(c.shut > clock_timestamp() AND c.shut <= clock_timestamp() + $4::interval)"
_GRANT = f"""
WITH granted AS (
    INSERT INTO reconciler.creations AS c (key_hash, recent) VALUES ($1, ARRAY[clock_timestamp()])
    ON CONFLICT (key_hash) DO UPDATE
       SET recent = c.recent[cardinality(c.recent) - $2 + 2:] || clock_timestamp()
     WHERE {_RECENT} < $2 AND {_SHUT} IS NOT TRUE
    RETURNING {SOON})
SELECT 0.0::float8 AS wait FROM granted
 UNION ALL
SELECT extract(epoch FROM greatest(
           c.recent[cardinality(c.recent) - $2 + 1] + $3::interval,
           CASE WHEN {_SHUT} THEN c.shut END) - clock_timestamp())::float8
  FROM (SELECT) AS always LEFT JOIN reconciler.creations c ON c.key_hash = $1
 WHERE NOT EXISTS (SELECT FROM granted)
"""
_CLOSE = """
INSERT INTO reconciler.creations AS c (key_hash, shut) VALUES ($1, clock_timestamp() + $2 * interval '1 second')
ON CONFLICT (key_hash) DO UPDATE SET shut = greatest(c.shut, excluded.shut)
"""


class CreateRequests:
    """The rows, keys and rate of createTask; `rate` counts requests in ten seconds and key, for all replicas."""

    def __init__(self, database: Database, shape: TableShape, *, rate: float, provider: str) -> None:
        self._database = database
        self._shape = shape
        self._provider = provider
        self._count = max(int(rate), 1)
        self._window = WINDOW * self._count / rate + SLACK
        self._kept = f"""
SELECT r.digest, r.generation_id, g.status::text AS status, g.task_id::text AS task_id
  FROM reconciler.requests r LEFT JOIN public.generations g ON g.id = r.generation_id::{shape.id_type}
 WHERE r.caller = $1 AND r.key = $2 AND r.generation_id IS NOT NULL"""
        self._standing = f"""
SELECT g.status::text AS status, g.task_id::text AS task_id FROM public.generations g
 WHERE g.id = $1::text::{shape.id_type}"""
        self._save = _save_sql(shape)

    async def kept(self, asker: Requester) -> StoredRequest | None:
        """Return what this Idempotency-Key was used for, None where it was not or there is none."""
        row = asker.key and await self._database.row(self._kept, asker.caller, asker.key)
        if not row:
            return None
        standing = GenerationState(row["status"], row["task_id"]) if row["status"] is not None else None
        return StoredRequest(row["digest"], row["generation_id"], standing)

    async def grant(self, key_hash: str) -> float:
        """Take one of this key's requests; return 0, or the seconds until one may be had where none was left."""
        window, longest = timedelta(seconds=self._window), timedelta(seconds=LONGEST_SHUT)
        wait: float | None = await self._database.value(_GRANT, key_hash, self._count, window, longest)
        if wait == 0.0:
            return 0.0
        return max(self._window if wait is None else wait, 0.1)

    async def shut(self, key_hash: str, seconds: float) -> None:
        """Grant nothing with this key for so many seconds, a minute at most: KIE says that we are too fast."""
        await self._database.execute(_CLOSE, key_hash, min(seconds, LONGEST_SHUT))

    async def begin(self, order: Order, asker: Requester, *, patience: float) -> str | None:
        """Write the row, with its key and our bookkeeping, and return its id; None where the key has been used.

        The daemon looks at it after `patience` seconds unless something happens before. Raises Permanent where the
        table refuses this order, Config where it refuses every one.
        """
        sql, values = self._insert(order)
        status = values[0]

        async def once() -> str | None:
            async with self._database.transaction() as connection:
                claimed = (asker.caller, asker.key, order.digest())
                if asker.key is not None and not await connection.fetchval(_CLAIM, *claimed):
                    return None
                made: str = await _accepted(connection.fetchval(sql, *values))
                await connection.execute(_BOOKED, made, patience, status)
                if asker.key is not None:
                    await connection.execute(_NAMED, asker.caller, asker.key, made)
                return made

        return await self._database.run(once)

    async def save(self, generation_id: str, task_id: str, *, key_hash: str) -> GenerationState | None:
        """Write the task's id into the row, unless it has one or has ended; return how it stands, None when it is gone.

        Safe to repeat. Raises Permanent where the table refuses the id.
        """
        try:
            row = await self._database.row(self._save, generation_id, task_id, key_hash)
        except asyncpg.PostgresError as error:
            # Whatever a trigger may raise: what was paid for is known to our caller alone, who goes on trying.
            raise Permanent(f"the table refuses the row: {error.args[0]}", code="row_refused") from error
        return row and GenerationState(row["status"], row["task_id"])

    async def refused(self, generation_id: str, reason: str | None) -> None:
        """Keep what KIE said to an order that it refused, or forget it; whoever finds it fails the row for it."""
        await self._database.execute(_REFUSED, generation_id, reason)

    async def standing(self, generation_id: str) -> GenerationState | None:
        """Return how the row stands, None when it is gone."""
        row = await self._database.row(self._standing, generation_id)
        return row and GenerationState(row["status"], row["task_id"])

    def _insert(self, order: Order) -> tuple[str, list[str | None]]:
        """The statement that adds the row to the table as it is; the first value is the status."""
        shape, named = self._shape, order.model_key or order.model
        _check_owner(shape, order.user_id)
        prompt = order.prompt if order.prompt is not None else order.input.get("prompt")
        told = prompt if isinstance(prompt, str) else "" if "prompt" in shape.filled else None
        known = {
            "status": _first_status(shape), "user_id": order.user_id, "provider": self._provider, "prompt": told,
            "kind": order.kind, "type": order.kind, "options": json.dumps(order.input), "model": order.model,
            "model_key": named, "model_id": named, "model_name": named,
        }  # fmt: skip
        given = {column: value for column, value in known.items() if shape.has(column)}
        made = {column: sql for column, sql in _made(shape).items() if column in shape.needed}
        if unfilled := shape.needed - given.keys() - made.keys():
            names = ", ".join(sorted(unfilled))
            raise Config(
                f"createTask cannot fill public.generations.{names}",
                hint=f"give each a default or let it be NULL: ALTER TABLE public.generations ALTER COLUMN {names} …",
            )
        places = [f"${n}::text::{shape.columns[column]}" for n, column in enumerate(given, start=1)]
        columns, values = ", ".join([*given, *made]), ", ".join([*places, *made.values()])
        return f"INSERT INTO public.generations ({columns}) VALUES ({values}) RETURNING id::text", list(given.values())


async def _accepted(writing: Awaitable[T]) -> T:
    """Permanent where the row itself is refused: by a constraint, a type, or a trigger of the application's."""
    try:
        return await writing
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.RaiseError) as error:
        # Only the message: the detail repeats the whole row, or tells of another one.
        raise Permanent(f"the table refuses the row: {error.args[0]}", code="row_refused") from error


def _check_owner(shape: TableShape, user_id: str | None) -> None:
    if user_id is None and "user_id" in shape.filled:
        raise Permanent("every row of the table has a user: userId is needed", code="user_needed")
    if user_id is not None and as_key(user_id, shape.columns["user_id"]) is None:
        raise Permanent(f"userId is no {shape.columns['user_id']}", code="user_malformed")


def _first_status(shape: TableShape) -> str:
    if "task_id" in shape.filled:
        raise Config(
            "public.generations.task_id takes no NULL, and rows come before their tasks",
            hint="ALTER TABLE public.generations ALTER COLUMN task_id DROP NOT NULL;",
        )
    status = next((word for word in _WAITING if shape.takes(word)), None)
    if status is None:
        hint = "`kie-reconciler migrate --application` widens it"
        raise Config("the CHECK on public.generations.status takes no row in flight", hint=hint)
    return status


def _made(shape: TableShape) -> Mapping[str, str]:
    """What the database fills itself, for a table without the defaults."""
    id_type = shape.id_type
    drawn = {} if id_type in {"bigint", "integer", "smallint"} else {"id": f"gen_random_uuid()::text::{id_type}"}
    return {"created_at": "now()", "updated_at": "now()", **drawn}


def _save_sql(shape: TableShape) -> str:
    begun = ", status = CASE WHEN g.status = 'queued' THEN 'generating' ELSE g.status END"
    touched = ", updated_at = now()" if shape.has("updated_at") else ""
    open_words = ", ".join(f"'{word}'" for word in OPEN)
    # No lease: nobody else may know the id, and a row that has one is left as it is. `mine` keeps the order of locks.
    return f"""
WITH mine AS MATERIALIZED (
    SELECT lease_until > now() AS held FROM reconciler.work WHERE generation_id = $1 FOR UPDATE),
saved AS (
    UPDATE public.generations g
       SET task_id = $2::text{begun if shape.writes_generating else ""}{touched}
      FROM (SELECT count(*) FROM mine) AS locked
     WHERE g.id = $1::text::{shape.id_type} AND g.task_id IS NULL AND g.status IN ({open_words})
    RETURNING g.status::text AS status),
told AS (
    UPDATE reconciler.work w
       SET {given("$2::text")}, seen_status = saved.status, key_hash = $3, family = 'market', acknowledged_at = now(),
           due_at = now(), why = NULL, finding = NULL
      FROM saved, mine WHERE w.generation_id = $1 AND mine.held IS NOT TRUE)
SELECT coalesce((SELECT status FROM saved), g.status::text) AS status,
       CASE WHEN EXISTS (SELECT FROM saved) THEN $2::text ELSE g.task_id::text END AS task_id
  FROM public.generations g WHERE g.id = $1::text::{shape.id_type}"""
