"""What our own createTask keeps in the database: Idempotency-Keys, the row before the task, the task's id.

One transaction claims the key, draws the rates (`create_rates`), writes the row and asks the application's hook
(`hooks`): an order that any of them stops leaves nothing behind. The row is written before KIE is asked and its task
id when KIE has answered. Between the two, `work.ordered_at` marks that KIE may have made a task. `worker/create/` calls
it.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import asyncpg

from reconciler.domain.object_keys import kind_word
from reconciler.errors import Config, Permanent, ReconcilerError, Transient
from reconciler.postgres.create_rates import CreateRates
from reconciler.postgres.errors import lock_refusals, row_refusals
from reconciler.postgres.hooks import HOOK_FAILED, HookFailed, OrderHook
from reconciler.postgres.pool import LOCK_WAIT, Database, lock_setting
from reconciler.postgres.predicates import HAS_NO_TASK, IN_FLIGHT, TASK, begin, set_task, touch
from reconciler.postgres.records import as_key
from reconciler.postgres.schema import KIND_COLUMNS, MODEL_COLUMNS, TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

ORDER_LOCK_SECONDS = 0.3
"""How long a write of an order waits for locks that the application holds; then the caller, or we, try again."""


@dataclass(frozen=True, slots=True)
class Order:
    """What KIE shall make, and for which user (None: no user); `model` is KIE's name, `model_key` the application's.

    `endpoint` is the name of KIE's endpoint as it was asked for, None if the model's name chooses it.
    """

    model: str
    input: Mapping[str, object]
    kind: str
    prompt: str | None = None
    model_key: str | None = None
    user_id: str | None = None
    endpoint: str | None = None

    def digest(self) -> str:
        """Return a hash that differs for two different orders under the same Idempotency-Key."""
        values = asdict(self)
        if self.endpoint is None:
            # Orders from before there were endpoints have their hashes in the database.
            del values["endpoint"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TaskStart:
    """What is known of an order's task before KIE answers: its dialect, and its id where KIE makes none (else None)."""

    dialect: str
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class Requester:
    """Who sends the request (a user's id, "" for the operator), and its Idempotency-Key, None without one."""

    caller: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationState:
    """Status and task of a generation now."""

    status: str
    task_id: str | None


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """The earlier use of an Idempotency-Key; `standing` is None where the application has deleted the row."""

    digest: str
    generation_id: str
    standing: GenerationState | None


@dataclass(frozen=True, slots=True)
class OrderBegun:
    """An order whose row is written; it may go to KIE with this key.

    `asked_at` is the monotonic time just before the key's request was granted.
    """

    generation_id: str
    key_hash: str
    asked_at: float


@dataclass(frozen=True, slots=True)
class RateExceeded:
    """A rate allows the next order in so many seconds; `user` is whether it is the user's own."""

    seconds: float
    user: bool = False


class _Stopped(Exception):
    """Rolls an order back that a rate does not allow."""

    def __init__(self, reason: RateExceeded) -> None:
        super().__init__()
        self.reason = reason


AT_ONCE = 4
"""Orders that one process writes at once: those that wait for a hook leave connections to deliveries."""

HOOK_RETRY = 30.0
"""Seconds after which an order may be sent again that on_order could not decide."""

_LOCK_WAIT = Statement(f"SELECT {LOCK_WAIT}")

_REFUSALS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.RaiseError)
_FIRST_STATUSES = ("queued", "pending", "processing", "generating")

# Writes an Idempotency-Key; returns a row where it is new.
_CLAIM_KEY = Statement("""
INSERT INTO reconciler.requests (caller, key, digest) VALUES (:caller, :key, :digest)
ON CONFLICT DO NOTHING RETURNING true""")

# Writes which generation an Idempotency-Key gave.
_NAME_GENERATION = Statement(
    "UPDATE reconciler.requests SET generation_id = :generation_id WHERE caller = :caller AND key = :key"
)

# Writes the bookkeeping of a new row, due in :patience seconds, with the dialect of its task. With the status as we
# wrote it, so that no replica visits the row for its own notification while KIE is being asked.
_BOOK = Statement("""
INSERT INTO reconciler.work (generation_id, due_at, seen_status, family, ordered_at)
VALUES (:generation_id, now() + :patience::float8 * interval '1 second', :status, :family, now())""")

# Writes KIE's reason to refuse an order, or takes it back.
_REFUSED = Statement("""
UPDATE reconciler.work SET refused = :reason
 WHERE generation_id = :generation_id AND refused IS DISTINCT FROM :reason""")


class CreateRequests:
    """The keys and rows of createTask; `rates` are those of all replicas."""

    def __init__(self, database: Database, table: PresentTable, *, rates: CreateRates, provider: str) -> None:
        self._database = database
        self._table = table
        self._rates = rates
        self._provider = provider
        self._hook = OrderHook(database, table)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._kept = PerShape(table, _kept_sql)
        self._standing = PerShape(table, _standing_sql)
        self._save = PerShape(table, _save_sql)

    async def find(self, requester: Requester) -> StoredRequest | None:
        """Return the earlier use of this Idempotency-Key, None where there is none or no key."""
        if not requester.key:
            return None
        row = await self._database.row(*self._kept.present(caller=requester.caller, key=requester.key))
        if not row:
            return None
        standing = GenerationState(row["status"], row["task_id"]) if row["status"] is not None else None
        return StoredRequest(row["digest"], row["generation_id"], standing)

    async def begin(
        self, order: Order, requester: Requester, start: TaskStart, key_hashes: Sequence[str], *, patience: float
    ) -> OrderBegun | RateExceeded | None:
        """Write the row, with its Idempotency-Key, its place in the rates and our bookkeeping, in one transaction.

        None where the Idempotency-Key has been used; a repeat that comes meanwhile waits for the end of the first. The
        first of `key_hashes` with a request left is taken. The daemon visits the row after `patience` seconds unless
        something happens before; at once if it has a task. Raises Permanent where the table (code "row_refused") or the
        application's hook ("order_refused") refuses this order, Config where the table refuses every one, Transient
        where the hook cannot decide ("hook_failed"), Locked where a lock that the table's triggers need is not given
        soon. In each of these cases nothing is written but the attempt of the
        end user, which counts for their rate.
        """
        try:
            async with self._slots:
                return await self._database.run(lambda: self._begin(order, requester, start, key_hashes, patience))
        except _Stopped as stopped:
            return stopped.reason
        except Permanent:
            await self._count_attempt(requester)
            raise
        except HookFailed as failed:
            await self._count_attempt(requester)
            with suppress(ReconcilerError):
                await self._hook.note_failure(str(failed))
            raise Transient(str(failed), code=HOOK_FAILED, retry_after=HOOK_RETRY) from failed

    async def _begin(
        self, order: Order, requester: Requester, start: TaskStart, key_hashes: Sequence[str], patience: float
    ) -> OrderBegun | None:
        insert, values = self._insert(order, start.task_id)
        caller = {"caller": requester.caller, "key": requester.key}
        async with self._database.transaction() as connection:
            # Before any rate: a repeat must use none.
            if requester.key is not None and not await connection.fetchval(
                *_CLAIM_KEY(**caller, digest=order.digest())
            ):
                return None
            await self._check_rates(connection, requester, key_hashes)
            await connection.execute(*_LOCK_WAIT(lock_wait=lock_setting(ORDER_LOCK_SECONDS)))
            with row_refusals(_REFUSALS), lock_refusals("the INSERT into public.generations"):
                generation_id: str = await connection.fetchval(insert, *values.values())
            due_in = patience if start.task_id is None else 0.0
            book = {"patience": due_in, "status": values["status"], "family": start.dialect}
            await connection.execute(*_BOOK(generation_id=generation_id, **book))
            if requester.key is not None:
                await connection.execute(*_NAME_GENERATION(**caller, generation_id=generation_id))
            await self._hook.call(connection, generation_id, order.user_id, order.model, order.input)
            # Last, because the lock on a key's row holds up the orders of all users.
            key_hash, asked_at = await self._take_key(connection, key_hashes)
        return OrderBegun(generation_id, key_hash, asked_at)

    async def _check_rates(
        self, connection: asyncpg.Connection, requester: Requester, key_hashes: Sequence[str]
    ) -> None:
        """Draw from the end user's rate, and stop where no key has a request left; the operator has no rate."""
        if requester.caller and (wait := await self._rates.draw_user(connection, requester.caller)):
            raise _Stopped(RateExceeded(wait, user=True))
        if wait := await self._rates.peek(connection, key_hashes):
            raise _Stopped(RateExceeded(wait))

    async def _take_key(self, connection: asyncpg.Connection, key_hashes: Sequence[str]) -> tuple[str, float]:
        """Take a request of the first key that has one left; return the key, and the time before it was asked for."""
        waits = []
        for key_hash in key_hashes:
            asked_at = time.monotonic()
            wait = await self._rates.grant_with(connection, key_hash)
            if wait == 0.0:
                return key_hash, asked_at
            waits.append(wait)
        raise _Stopped(RateExceeded(min(waits)))

    async def _count_attempt(self, requester: Requester) -> None:
        if requester.caller:
            # The refusal is the answer; a database that is away meanwhile changes nothing about it.
            with suppress(ReconcilerError):
                await self._rates.count_attempt(requester.caller)

    async def save(self, generation_id: str, task_id: str, *, key_hash: str, dialect: str) -> GenerationState | None:
        """Write the task's id into the row, unless it has one or has ended; return its state, None when it is gone.

        Safe to repeat. Raises Permanent where the table refuses the id, Locked where the row's lock is not given soon.
        """
        wait = lock_setting(ORDER_LOCK_SECONDS)
        values = {"generation_id": generation_id, "task_id": task_id, "key_hash": key_hash, "family": dialect}
        sql, *arguments = self._save.present(**values, lock_wait=wait)
        # Every error of a trigger too: only our caller knows the id of the paid task, and tries again.
        with row_refusals():
            row = await self._database.write(sql, *arguments, writes="the write of public.generations")
        return row and GenerationState(row["status"], row["task_id"])

    async def note_refusal(self, generation_id: str, reason: str | None) -> None:
        """Keep KIE's reason to refuse an order, or forget it; the next visit fails the row with it."""
        await self._database.execute(*_REFUSED(generation_id=generation_id, reason=reason))

    async def state(self, generation_id: str) -> GenerationState | None:
        """Return the row's state, None when it is gone."""
        row = await self._database.row(*self._standing.present(generation_id=generation_id))
        return row and GenerationState(row["status"], row["task_id"])

    def _insert(self, order: Order, task_id: str | None) -> tuple[str, Mapping[str, str | None]]:
        """Return the statement that adds the row to the table as it is, and its values by column, in their order."""
        table, model_key = self._table.shape, order.model_key or order.model
        _check_owner(table, order.user_id)
        prompt = order.prompt if order.prompt is not None else order.input.get("prompt")
        known = {
            "status": _first_status(table), "user_id": order.user_id, "provider": self._provider,
            "prompt": prompt if isinstance(prompt, str) else "" if "prompt" in table.filled else None,
            "options": json.dumps(order.input), "model": order.model,
            "model_key": model_key, "model_id": model_key, "model_name": model_key,
            **_kind_words(table, order.kind), **({} if task_id is None else {"task_id": task_id}),
        }  # fmt: skip
        values = {column: value for column, value in known.items() if table.has(column)}
        generated = {column: sql for column, sql in _generated(table).items() if column in table.needed}
        if columns_left := unfilled(table):
            raise Config(
                f"createTask cannot fill public.generations.{', '.join(columns_left)}",
                hint=f"give each a default or let it be NULL: {let_be_null(columns_left)}",
            )
        places = [f"${n}::text::{table.columns[column]}" for n, column in enumerate(values, start=1)]
        columns, expressions = ", ".join([*values, *generated]), ", ".join([*places, *generated.values()])
        return f"INSERT INTO public.generations ({columns}) VALUES ({expressions}) RETURNING id::text", values


_FILLED = frozenset(
    {"status", "user_id", "provider", "prompt", "options", *KIND_COLUMNS, *MODEL_COLUMNS, "task_id"}
)  # fmt: skip
"""The columns that an order fills where the table has them; `task_id` has a refusal of its own."""


def unfilled(table: TableShape) -> tuple[str, ...]:
    """Return the columns that a row must fill and an order cannot, in order of their names."""
    return tuple(sorted(table.needed - _FILLED - _generated(table).keys()))


def let_be_null(columns: Sequence[str]) -> str:
    """Return the statement that lets these columns be NULL; a key cannot be, and needs a default of the application."""
    changes = ", ".join(f'ALTER COLUMN "{column}" DROP NOT NULL' for column in columns if column != "id")
    return f"ALTER TABLE public.generations {changes};" if changes else "-- give id a default"


def _kind_words(table: TableShape, kind: str) -> Mapping[str, str]:
    """Return the kind in a word of each column for it; a column that has no such word, and need not be filled, is left.

    Raises Permanent (code "row_refused") where it must be filled.
    """
    words = {column: kind_word(kind, table.words.get(column)) for column in table.kind_columns}
    for column in table.kind_columns:
        if words[column] is None and column in table.needed:
            allowed = ", ".join(sorted(table.words[column]))
            message = f"the CHECK on public.generations.{column} has no word for {kind}; it allows: {allowed}"
            raise Permanent(message, code="row_refused")
    return {column: word for column, word in words.items() if word is not None}


def _check_owner(table: TableShape, user_id: str | None) -> None:
    if user_id is None and "user_id" in table.filled:
        raise Permanent("userId is needed: public.generations.user_id is NOT NULL", code="user_needed")
    if user_id is not None and as_key(user_id, table.columns["user_id"]) is None:
        raise Permanent(f"userId is not a valid {table.columns['user_id']}", code="user_malformed")


def _first_status(table: TableShape) -> str:
    if "task_id" in table.filled:
        raise Config(
            "public.generations.task_id is NOT NULL, but createTask writes a row before it has a task",
            hint="ALTER TABLE public.generations ALTER COLUMN task_id DROP NOT NULL;",
        )
    status = next((word for word in _FIRST_STATUSES if table.takes(word)), None)
    if status is None:
        hint = "`kie-reconciler migrate --application` widens it"
        raise Config("the CHECK on public.generations.status takes no row in flight", hint=hint)
    return status


def _generated(table: TableShape) -> Mapping[str, str]:
    """Return the columns that the database fills itself where the table has no defaults for them."""
    id_type = table.id_type
    drawn_id = {} if id_type in {"bigint", "integer", "smallint"} else {"id": f"gen_random_uuid()::text::{id_type}"}
    return {"created_at": "now()", "updated_at": "now()", **drawn_id}


def _kept_sql(table: TableShape) -> Statement:
    """Read and return the earlier use of an Idempotency-Key, with the row that it gave."""
    return Statement(f"""
SELECT r.digest, r.generation_id, g.status::text AS status, ({TASK})::text AS task_id
  FROM reconciler.requests r LEFT JOIN public.generations g ON g.id = r.generation_id::{table.id_type}
 WHERE r.caller = :caller AND r.key = :key AND r.generation_id IS NOT NULL""")


def _standing_sql(table: TableShape) -> Statement:
    """Read and return status and task of a row."""
    return Statement(f"""
SELECT g.status::text AS status, ({TASK})::text AS task_id FROM public.generations g
 WHERE g.id = :generation_id::text::{table.id_type}""")


def _save_sql(table: TableShape) -> Statement:
    """Write the task's id into a row in flight without one, and the bookkeeping of the new task; return its state.

    Takes no lease: nothing else knows the id, and a row that has one is left as it is. `mine` keeps the order of locks.
    """
    return Statement(f"""
WITH mine AS MATERIALIZED (
    SELECT lease_until > now() AS held FROM reconciler.work WHERE generation_id = :generation_id FOR UPDATE),
saved AS (
    UPDATE public.generations g SET task_id = :task_id::text{begin(table)}{touch(table)}
      FROM (SELECT count(*), {LOCK_WAIT} FROM mine) AS locked
     WHERE g.id = :generation_id::text::{table.id_type} AND {HAS_NO_TASK} AND {IN_FLIGHT}
    RETURNING g.status::text AS status),
noted AS (
    UPDATE reconciler.work w
       SET {set_task(":task_id::text")}, seen_status = saved.status, key_hash = :key_hash, family = :family,
           acknowledged_at = now(), due_at = now(), why = NULL, finding = NULL
      FROM saved, mine WHERE w.generation_id = :generation_id AND mine.held IS NOT TRUE)
SELECT coalesce((SELECT status FROM saved), g.status::text) AS status,
       CASE WHEN EXISTS (SELECT FROM saved) THEN :task_id::text ELSE ({TASK})::text END AS task_id
  FROM public.generations g WHERE g.id = :generation_id::text::{table.id_type}""")
