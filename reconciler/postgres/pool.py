"""The connection pool, and what PostgreSQL's errors mean to us.

Every statement but the listener's, `migrate`'s and `doctor`'s goes through `Database`, one statement a transaction
unless a caller opens one. What waiting mends becomes Transient, what only a person mends becomes Config; a deadlock or
a lock timeout runs the statement again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from reconciler.errors import Config, Transient
from reconciler.postgres.connection import SETTINGS, reached

T = TypeVar("T")

AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # A statement begun on a session that the server has just ended, before it has hung up.
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
"""What a database that is merely away, full, read-only or overloaded raises."""

WRONG = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
)
"""What a wrong password, user, database name or address raises: waiting does not help."""

AGAIN = (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
"""What two writers in each other's way raise; the statement is simply run again."""

_TRIES = 3

LOST_PREPARED = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""What prepared statements meet behind a pooler in transaction mode."""

SOON = "set_config('synchronous_commit', 'off', true)"
"""Returned by statements whose loss in a crash of the server costs only time: their commit need not wait for the disk.

What follows them in the log and does wait (an intention, an end) takes them along.
"""


class PlainConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that keeps no session state, so giving it back to the pool needs no round trip."""

    def get_reset_query(self) -> str:
        """Return nothing to run: no LISTEN, no SET and no advisory lock ever happens on a pooled connection."""
        return ""


class Database:
    """A pool that rebuilds itself when the server is silent, has become read-only or sits behind a transaction pooler.

    `patience` is how many seconds a statement may take, more than the server itself allows one; `trouble` is why the
    last could not be run, None when it was.
    """

    def __init__(self, dsn: str, *, size: int = 10, patience: float = 25.0) -> None:
        self._dsn = dsn
        self._size = size
        self._patience = patience
        self._pool: asyncpg.Pool | None = None
        self._cache = 100
        self._opening = asyncio.Lock()
        self._closed = False
        self.trouble: str | None = None

    async def open(self) -> None:
        """Connect; Config for what a person must mend, Transient for a database that is away."""
        async with self._opening:
            if self._pool is None:
                self._pool = await translated(self._connect)

    async def _connect(self) -> asyncpg.Pool:
        self._still_open()
        pool = await reached(self._dsn, self._pooling)
        try:
            self._still_open()
        except asyncpg.InterfaceError:
            pool.terminate()
            raise
        return pool

    async def _pooling(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            self._dsn,
            min_size=1,
            max_size=self._size,
            command_timeout=self._patience,
            timeout=10,
            connection_class=PlainConnection,
            server_settings=SETTINGS,
            statement_cache_size=self._cache,
            target_session_attrs="read-write",
        )

    def _still_open(self) -> None:
        if self._closed:
            raise asyncpg.InterfaceError("the pool was closed")

    async def close(self) -> None:
        """Close for good, politely for two seconds, then cut: a database that is away must not hold up the exit."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(2):
                await pool.close()
        except (TimeoutError, *AWAY):
            pool.terminate()

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Run one statement and return its rows."""
        return await self._run(lambda connection: connection.fetch(sql, *args))

    async def row(self, sql: str, *args: object) -> asyncpg.Record | None:
        """Run one statement and return its first row, or None."""
        return await self._run(lambda connection: connection.fetchrow(sql, *args))

    async def value(self, sql: str, *args: object) -> Any:
        """Run one statement and return the first column of its first row, or None."""
        return await self._run(lambda connection: connection.fetchval(sql, *args))

    async def execute(self, sql: str, *args: object) -> None:
        """Run one statement for its effect."""
        await self._run(lambda connection: connection.execute(sql, *args))

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Open a transaction for the few writes that need more than one statement."""
        await self.open()
        async with self._lent() as connection:
            transaction = connection.transaction()
            await transaction.start()
            failed = True
            try:
                yield connection
                failed = False
            except (asyncio.CancelledError, TimeoutError):
                failed = False
                raise
            finally:
                if failed:
                    # A connection that is gone has rolled back already; why it went is the error to tell.
                    with contextlib.suppress(asyncpg.InterfaceError):
                        await transaction.rollback()
            await transaction.commit()

    @contextlib.asynccontextmanager
    async def _lent(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the pool, cut where its user is cancelled or the library has lost track of it.

        The library would wait for the server's word on the cancelled statement, which a server that is away never says.
        """
        pool = self._pool
        if pool is None:
            raise asyncpg.InterfaceError("the pool was closed")
        connection = await pool.acquire()
        try:
            yield connection
        except (asyncio.CancelledError, asyncpg.InternalClientError):
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()
            raise
        except AttributeError:
            # What the library says where another task has cut the connection between two steps of a statement.
            if not connection.is_closed():
                raise
            raise asyncpg.InterfaceError("the connection was cut") from None
        except TimeoutError:
            # The server itself ends what takes long: the line is dead, and each connection on it would cost as much.
            connection.terminate()
            if self._pool is pool:
                await self._reopen()
            raise
        finally:
            await pool.release(connection)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a whole transaction again after a deadlock, and translate its errors."""
        return await permitted(translated, work)

    async def _run(self, ask: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def once() -> T:
            async with self._lent() as connection:
                return await ask(connection)

        try:
            await self.open()
            result = await self._prepared(once)
        except Config as error:
            self.trouble = str(error)
            raise
        except Transient as error:
            self.trouble = str(error)
            if isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError):
                await self._reopen()
            raise
        self.trouble = None
        return result

    async def _prepared(self, once: Callable[[], Awaitable[T]]) -> T:
        try:
            return await permitted(translated, once)
        except PreparedStatementLost:
            await self._without_cache()
            return await permitted(translated, once)

    async def _without_cache(self) -> None:
        self._cache = 0
        await self._reopen()
        await self.open()

    async def _reopen(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    @property
    def pooled(self) -> bool:
        """Whether prepared statements got lost, as they do behind a pooler in transaction mode."""
        return self._cache == 0


class PreparedStatementLost(Transient):
    """A prepared statement was gone: the connection runs through a pooler in transaction mode."""


async def permitted(run: Callable[[Callable[[], Awaitable[T]]], Awaitable[T]], work: Callable[[], Awaitable[T]]) -> T:
    """Await `run(work)`; Config where this login lacks a right, kept from `translated` as `migrate` may go on."""
    try:
        return await run(work)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise Config(f"the database lacks a table: {error}", hint="run: kie-reconciler migrate") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Config(
            f"the database forbids it: {error}",
            hint="GRANT reconciler TO the login of DATABASE_URL, or use the owner's",
        ) from error


async def translated(work: Callable[[], Awaitable[T]]) -> T:
    """Await `work`, again after a deadlock, with PostgreSQL's errors turned into ours."""
    for left in reversed(range(_TRIES)):
        try:
            return await work()
        except AGAIN as error:
            if not left:
                raise Transient(f"the database is busy: {type(error).__name__}", code="database_busy") from error
        except LOST_PREPARED as error:
            raise PreparedStatementLost("a prepared statement was lost", code="database_pooled") from error
        except WRONG as error:
            raise Config(
                f"the database refuses us: {type(error).__name__}",
                hint="check user, password and database name in DATABASE_URL",
            ) from error
        except AWAY as error:
            raise Transient(f"the database is away: {type(error).__name__}", code="database_away") from error
        except asyncpg.PostgresError as error:
            # Supavisor says XX000 where its pool is full or the database is lost to it, and hangs up.
            # And whoever notifies cannot commit while a listener in an open transaction keeps the queue full.
            if error.severity_en not in {"FATAL", "PANIC"} and error.server_source_function != "PreCommit_Notify":
                raise
            raise Transient(f"the database is away: {type(error).__name__}", code="database_away") from error
    raise AssertionError("unreachable")
