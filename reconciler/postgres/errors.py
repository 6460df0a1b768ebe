"""What PostgreSQL's errors mean to us: wait, run it again, or ask a person to mend it; `refusals` has the words.

`Database` translates the errors of every statement here; the listener, `migrate` and `doctor` do it for their own
connections. Errors of a row that a statement refuses (constraints, triggers, types) pass untranslated, except in
`row_refusals`. A statement that no longer fits the application's table becomes TableChanged.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import asyncpg

from reconciler.errors import Config, Locked, Permanent, TableChanged, Transient
from reconciler.postgres.refusals import Peer, spoken, to_error

T = TypeVar("T")

AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # A statement began on a session that the server has just ended, before it closed the connection.
    asyncpg.InternalClientError,
    asyncpg.TooManyConnectionsError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TargetServerAttributeNotMatched,
    OSError,
    TimeoutError,
)
"""The database is away, full, read-only or overloaded: waiting helps."""

WRONG = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
)
"""The password, user, database name or address is wrong: waiting does not help."""

AGAIN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
"""Two writers stood in each other's way, or a prepared plan is outdated: running the statement again helps."""

UNFIT = (
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,
    asyncpg.DatatypeMismatchError,
    asyncpg.CannotCoerceError,
    asyncpg.IndeterminateDatatypeError,
    asyncpg.WrongObjectTypeError,
)
"""The statement names or combines what is not there, or not of that type."""

DOUBTS = (
    *UNFIT,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.DataError,
    asyncpg.CheckViolationError,
    asyncpg.NotNullViolationError,
)
"""Errors that a change of the application's table can explain."""

_TRIES = 3

LOST_PREPARED = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""A prepared statement is gone, as happens behind a pooler in transaction mode."""


class PreparedStatementLost(Transient):
    """A prepared statement was gone: the connection runs through a pooler in transaction mode."""


async def fitting(work: Callable[[], Awaitable[T]]) -> T:
    """Await `work`; TableChanged where its own statement does not fit the application's table.

    An error inside a trigger or a function of the application passes as it is: it refuses the row. So does one about a
    table of ours, which a migration mends.
    """
    try:
        return await work()
    except UNFIT as error:
        ours = isinstance(error, asyncpg.UndefinedTableError) and '"reconciler.' in str(error)
        if ours or getattr(error, "context", None):
            raise
        raise TableChanged(f"a statement does not fit the table: {error.args[0]}") from error


def doubts_table(error: BaseException) -> bool:
    """Return whether a change of the application's table can explain this error, or the one that it translates.

    A trigger that raises is part of the table. An error that on_order raises comes translated: it refuses one order.
    """
    return isinstance(error, (*DOUBTS, asyncpg.RaiseError)) or isinstance(error.__cause__, DOUBTS)


async def permitted(run: Callable[[Callable[[], Awaitable[T]]], Awaitable[T]], work: Callable[[], Awaitable[T]]) -> T:
    """Await `run(work)`; Config where this login lacks a right or the database a table.

    Apart from `translated`, because `migrate` may continue without a right.
    """
    try:
        return await run(work)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise Config(f"the database lacks a table: {error}", hint="run: kie-reconciler migrate") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Config(
            f"the database forbids it: {error}",
            hint="GRANT reconciler TO the login of DATABASE_URL, or use the owner's",
        ) from error


_ANY_PEER = Peer()


async def translated(work: Callable[[], Awaitable[T]], peer: Peer = _ANY_PEER) -> T:
    """Await `work`, again after a deadlock, with PostgreSQL's errors turned into ours; they name the `peer`."""
    for left in reversed(range(_TRIES)):
        try:
            return await work()
        except AGAIN as error:
            if not left:
                raise Transient(f"the database is busy: {spoken(error, peer)}", code="database_busy") from error
        except LOST_PREPARED as error:
            raise PreparedStatementLost("a prepared statement was lost", code="database_pooled") from error
        except (*WRONG, *AWAY) as error:
            raise to_error(error, peer) from error
        except asyncpg.PostgresError as error:
            # Supavisor sends a FATAL XX000 where its pool is full or it has lost the database.
            # A transaction that notifies cannot commit while another session's open transaction keeps the queue full.
            if error.severity_en not in {"FATAL", "PANIC"} and error.server_source_function != "PreCommit_Notify":
                raise
            raise to_error(error, peer) from error
    raise AssertionError("unreachable")


@contextmanager
def row_refusals(
    kinds: tuple[type[asyncpg.PostgresError], ...] = (asyncpg.PostgresError,), *, hint: str = ""
) -> Iterator[None]:
    """Raise Permanent where the application's table refuses our write: a trigger, a constraint, a narrow column."""
    try:
        yield
    except kinds as error:
        # Only the message: the details repeat the whole row, or another one.
        raise Permanent(f"the table refuses the row: {error.args[0]}", code="row_refused", hint=hint) from error


_RELATION = re.compile(r'in relation "([^"]+)"')


@contextmanager
def lock_refusals(writes: str) -> Iterator[None]:
    """Raise Locked where a lock was not given in time; `writes` names the table or the hook that needs the lock.

    PostgreSQL names the table of the locked row to the first session that waits for it, and to no later one.
    """
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        found = _RELATION.search(getattr(error, "context", None) or "")
        what = "a lock" if found is None else f"a lock on a row of {found[1]}"
        raise Locked(f"{writes} waits for {what} that another session holds") from error
