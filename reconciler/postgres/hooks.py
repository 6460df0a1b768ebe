"""The application's hooks: functions in schema reconciler that the daemon calls where the application defined them.

`on_order` is called in the transaction of an order, by `create_requests`. `on_delivered` is called here, in a
transaction of its own, for each delivery that the ledger noted in `hook_calls`. `on_failed` is called by the ledger.
Existence is looked up at every call, so that a function may be created or dropped at any time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from reconciler.errors import Permanent
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

LONGEST_CALL = "5s"
LONGEST_LOCK = "2s"
"""How long on_order and on_delivered may take, and how long they may wait for one lock."""

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 600.0
"""Seconds until on_delivered is called again after it failed, doubled from then on, and the most of them."""

LONGEST_MESSAGE = 500
"""The most characters that are kept of what a hook said."""

ORDER_REFUSED = "order_refused"
HOOK_FAILED = "hook_failed"
"""The codes of our errors: on_order refuses an order; a hook fails."""

REFUSAL = "P0001"
"""The SQLSTATE by which on_order refuses an order: that of RAISE EXCEPTION."""


def signatures(id_type: str, user_type: str) -> Mapping[str, tuple[str, ...]]:
    """Return the signatures that each hook may have on a table with these types of id and user_id."""
    return {
        "on_order": (f"reconciler.on_order({id_type}, {user_type}, text, jsonb)",),
        "on_failed": (f"reconciler.on_failed({id_type}, text)", f"reconciler.on_failed({id_type}, text, text)"),
        "on_delivered": (f"reconciler.on_delivered({id_type}, text)",),
    }


def call(function: str) -> Statement:
    """Return the call of a hook.

    Its result is always a number: a statement that is prepared breaks where a function that is replaced returns another
    type.
    """
    return Statement(f"SELECT count(*) FROM reconciler.{function}")


# Reads whether on_order can be called, whether a function has its name, and whether it failed the last time; limits
# what follows in this transaction.
_LOOK = Statement("""
SELECT to_regprocedure(:signature) IS NOT NULL AS callable,
       EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                WHERE n.nspname = 'reconciler' AND p.proname = 'on_order') AS named,
       EXISTS (SELECT FROM reconciler.hook_failures WHERE hook = 'on_order') AS failed_before""")

# Limits the time of what follows in this transaction.
_LIMIT = Statement(
    "SELECT set_config('statement_timeout', :call::text, true), set_config('lock_timeout', :lock::text, true)"
)(call=LONGEST_CALL, lock=LONGEST_LOCK)

_WORKED = "DELETE FROM reconciler.hook_failures WHERE hook = 'on_order'"

# Writes that on_order failed; the finding counts it until it works again.
_NOTE_FAILURE = Statement("""
INSERT INTO reconciler.hook_failures AS f (hook, trouble) VALUES ('on_order', :trouble)
ON CONFLICT (hook) DO UPDATE SET failures = f.failures + 1, trouble = excluded.trouble, at = now()""")

# Reads and locks the next call of on_delivered that is due, as long as there is such a function. The lock is the fence:
# no other replica makes this call meanwhile, and it ends with this transaction, also where this process dies.
_NEXT = Statement("""
SELECT generation_id, task_id, tries FROM reconciler.hook_calls
 WHERE done_at IS NULL AND due_at <= now() AND hook = 'on_delivered' AND to_regprocedure(:signature) IS NOT NULL
 ORDER BY least(tries, 1), due_at LIMIT 1 FOR UPDATE SKIP LOCKED""")

# Writes the mark of a call that was made.
_DONE = Statement("""
UPDATE reconciler.hook_calls SET done_at = now(), due_at = NULL, tries = tries + 1, trouble = NULL
 WHERE hook = 'on_delivered' AND generation_id = :generation_id AND task_id = :task_id""")

# Writes what a call said that failed, and when it is made again.
_FAILED = Statement("""
UPDATE reconciler.hook_calls
   SET tries = tries + 1, trouble = :trouble, due_at = clock_timestamp() + :pause::float8 * interval '1 second'
 WHERE hook = 'on_delivered' AND generation_id = :generation_id AND task_id = :task_id""")


class HookFailed(Exception):
    """A hook failed in a way that only the application can mend; it ends the transaction that called it."""


class OrderHook:
    """Calls `reconciler.on_order` in the transaction of an order."""

    def __init__(self, database: Database, table: PresentTable) -> None:
        self._database = database
        self._hook = PerShape(table, _on_order)

    async def call(
        self, connection: asyncpg.Connection, generation_id: str, user_id: str | None, model: str,
        order_input: Mapping[str, object],
    ) -> None:  # fmt: skip
        """Call the hook where the application defined it.

        Raises Permanent (code "order_refused") with its message where it refuses, HookFailed for every other error and
        where a function of this name takes other arguments: it is there to be asked, and must not be passed over.
        """
        signature, statement = self._hook.present
        look = await connection.fetchrow(*_LOOK(signature=signature))
        if not look["callable"]:
            if look["named"]:
                raise HookFailed(f"reconciler.on_order does not take what it is called with: {signature}")
            return
        await connection.execute(*_LIMIT)
        values = {"generation_id": generation_id, "user_id": user_id, "model": model}
        try:
            await connection.execute(*statement(**values, input=json.dumps(order_input)))
        except asyncpg.DeadlockDetectedError:
            raise
        except asyncpg.PostgresError as error:
            if error.sqlstate == REFUSAL:
                raise Permanent(message(error), code=ORDER_REFUSED) from error
            raise HookFailed(f"reconciler.on_order threw: {message(error)}") from error
        if look["failed_before"]:
            await connection.execute(_WORKED)

    async def note_failure(self, trouble: str) -> None:
        """Keep that the hook failed, for the finding; its own transaction was rolled back."""
        await self._database.execute(*_NOTE_FAILURE(trouble=trouble))


@dataclass(frozen=True, slots=True)
class DeliveredCall:
    """One call of `reconciler.on_delivered`: about which delivery, and what it said where it failed (else None)."""

    generation_id: str
    task_id: str
    tries: int
    trouble: str | None


class DeliveredHook:
    """Calls `reconciler.on_delivered` for the deliveries that the ledger has noted."""

    def __init__(self, database: Database, table: PresentTable) -> None:
        self._database = database
        self._hook = PerShape(table, _on_delivered)

    async def call_next(self) -> DeliveredCall | None:
        """Make the next call that is due, with its mark in the same transaction; None where none is due.

        A call that fails is rolled back and due again after a pause.
        """
        return await self._database.run(self._once)

    async def _once(self) -> DeliveredCall | None:
        signature, statement = self._hook.present
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(*_NEXT(signature=signature))
            if row is None:
                return None
            tries = row["tries"] + 1
            about = {"generation_id": row["generation_id"], "task_id": row["task_id"]}
            await connection.execute(*_LIMIT)
            await connection.execute("SAVEPOINT hook")
            trouble = None
            try:
                await connection.execute(*statement(**about))
                # What the application checks at the end of a transaction belongs to this call, too.
                await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            except asyncpg.PostgresError as error:
                await connection.execute("ROLLBACK TO SAVEPOINT hook")
                trouble = message(error)
            if trouble is None:
                await connection.execute(*_DONE(**about))
            else:
                await connection.execute(*_FAILED(**about, trouble=trouble, pause=pause(tries)))
            return DeliveredCall(**about, tries=tries, trouble=trouble)


def _on_order(table: TableShape) -> tuple[str, Statement]:
    """Return the signature of on_order and its call."""
    id_type, user_type = table.id_type, table.columns["user_id"]
    (signature,) = signatures(id_type, user_type)["on_order"]
    return signature, call(
        f"on_order(:generation_id::text::{id_type}, :user_id::text::{user_type}, :model::text, :input::text::jsonb)"
    )


def _on_delivered(table: TableShape) -> tuple[str, Statement]:
    """Return the signature of on_delivered and its call."""
    id_type = table.id_type
    (signature,) = signatures(id_type, table.columns["user_id"])["on_delivered"]
    return signature, call(f"on_delivered(:generation_id::text::{id_type}, :task_id::text)")


def pause(tries: int) -> float:
    """Return the seconds until the next try after so many: doubled from 2 s up to 10 min."""
    return min(FIRST_PAUSE * 2.0 ** min(tries - 1, 16), LONGEST_PAUSE)


def message(error: asyncpg.PostgresError) -> str:
    """Return what a hook said, cut; without its details, which may repeat whole rows."""
    return str(error.args[0] if error.args else error)[:LONGEST_MESSAGE]
