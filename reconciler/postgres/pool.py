"""The connection pool.

Every statement but those of the listener, `migrate` and `doctor` goes through `Database`, one statement a transaction
unless a caller opens one. Errors that waiting mends become Transient, those that only a person mends become Config
(`errors`); after a deadlock or a lock timeout the statement runs again. What may wait for locks of the application is
tried once: then it is Locked.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg

from reconciler.errors import Config, Locked, ReconcilerError, TableChanged, Transient
from reconciler.postgres.connection import SETTINGS, QualifiedConnection, pin, reached
from reconciler.postgres.errors import (
    AWAY,
    PreparedStatementLost,
    doubts_table,
    fitting,
    lock_refusals,
    permitted,
    translated,
)
from reconciler.postgres.refusals import Peer

T = TypeVar("T")

ASYNC_COMMIT = "set_config('synchronous_commit', 'off', true)"
"""Returned by statements that may get lost when the server crashes, because the loss costs only time.

Their commit does not wait for the disk. A later commit that does wait (an intention, an end) writes them, too.
"""

LOCK_WAIT = "set_config('lock_timeout', :lock_wait, true)"
"""Read by statements before they wait for locks of the application: how long they and their transaction wait."""


def lock_setting(seconds: float) -> str:
    """Return the value of :lock_wait for so many seconds."""
    return f"{round(seconds * 1000)}ms"


class PlainConnection(QualifiedConnection):
    """A connection that keeps no session state, so giving it back to the pool needs no round trip."""

    def get_reset_query(self) -> str:
        """Return nothing to run: no LISTEN, no SET but that of `pin`, and no advisory lock happens on one."""
        return ""


@dataclass(slots=True)
class Trouble:
    """Why the last statement of some pools of one database could not run, None when it ran.

    `table_doubted` is set by a statement whose failure a change of the application's table can explain.
    """

    reason: str | None = None
    table_doubted: asyncio.Event = field(default_factory=asyncio.Event)


class StatementRunner(ABC):
    """Runs single statements; `_run` lends a connection to one."""

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

    @abstractmethod
    async def _run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Run the work on a connection."""


class Database(StatementRunner):
    """A pool that rebuilds itself when the server is silent, has become read-only or sits behind a transaction pooler.

    `pinned` empties the search_path of its sessions: only for a pool in which nothing of the application runs, neither
    triggers and hooks nor policies of a table that it reads. `patience` is how many seconds a statement may take, more
    than the server itself allows. Pools of one database share their `trouble`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        size: int = 10,
        patience: float = 25.0,
        trouble: Trouble | None = None,
        pinned: bool = False,
    ) -> None:
        self._dsn = dsn
        self._peer = Peer.of(dsn)
        self._size = size
        self._patience = patience
        self._pinned = pinned
        self._pool: asyncpg.Pool | None = None
        self._cache = 100
        self._opening = asyncio.Lock()
        self._closed = False
        self._trouble = trouble or Trouble()

    async def open(self) -> None:
        """Connect; Config for what a person must mend, Transient for a database that is away."""
        async with self._opening:
            if self._pool is None:
                self._pool = await self._translated(self._connect)

    async def _connect(self) -> asyncpg.Pool:
        self._check_open()
        pool = await reached(self._dsn, self._create_pool)
        try:
            self._check_open()
        except asyncpg.InterfaceError:
            pool.terminate()
            raise
        return pool

    async def _create_pool(self) -> asyncpg.Pool:
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
            init=pin if self._pinned else None,
        )

    def _check_open(self) -> None:
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

    async def write(self, sql: str, *args: object, writes: str) -> asyncpg.Record | None:
        """Run one statement that may wait for a lock of the application, and return its first row, or None.

        Locked where the lock is not given within the statement's own `lock_timeout`. `writes` names the table.
        """

        async def once(connection: asyncpg.Connection) -> asyncpg.Record | None:
            with lock_refusals(writes):
                return await connection.fetchrow(sql, *args)

        return await self._run(once)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Open a transaction for the few writes that need more than one statement."""
        await self.open()
        async with self._connection() as connection:
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
                    # A closed connection has rolled back already. The error to raise is the one that closed it.
                    with contextlib.suppress(asyncpg.InterfaceError):
                        await transaction.rollback()
            await transaction.commit()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection of the pool; cut it where its user is cancelled or asyncpg has lost track of it.

        asyncpg would wait until the server confirms the cancellation, which a server that is away never does.
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
            # asyncpg raises this where another task has cut the connection between two steps of a statement.
            if not connection.is_closed():
                raise
            raise asyncpg.InterfaceError("the connection was cut") from None
        except TimeoutError:
            # The server ends long statements itself, so the network is dead: every connection would cost as much time.
            connection.terminate()
            if self._pool is pool:
                await self._reopen()
            raise
        finally:
            await pool.release(connection)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a whole transaction again after a deadlock, and translate its errors."""
        return await self._noted(lambda: permitted(self._translated, lambda: fitting(work)))

    async def _run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def once() -> T:
            async with self._connection() as connection:
                return await work(connection)

        async def opened() -> T:
            await self.open()
            return await self._with_cache(once)

        return await self._noted(opened)

    async def _translated(self, work: Callable[[], Awaitable[T]]) -> T:
        return await translated(work, self._peer)

    async def _noted(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await the work, and note in `trouble` whether the database did it."""
        try:
            result = await work()
        except (ReconcilerError, asyncpg.PostgresError) as error:
            if doubts_table(error):
                self._trouble.table_doubted.set()
            if isinstance(error, Locked | TableChanged):
                self._trouble.reason = None
            elif isinstance(error, Config | Transient):
                self._trouble.reason = str(error)
                if isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError):
                    await self._reopen()
            raise
        self._trouble.reason = None
        return result

    async def _with_cache(self, once: Callable[[], Awaitable[T]]) -> T:
        try:
            return await permitted(self._translated, lambda: fitting(once))
        except PreparedStatementLost:
            self._cache = 0
            await self._reopen()
            await self.open()
            return await permitted(self._translated, lambda: fitting(once))

    async def _reopen(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    @property
    def trouble(self) -> str | None:
        """Return why the last statement could not run, None when it ran."""
        return self._trouble.reason

    @property
    def table_doubted(self) -> asyncio.Event:
        """Return the event that a statement sets whose failure a change of the application's table can explain."""
        return self._trouble.table_doubted

    @property
    def pooled(self) -> bool:
        """Whether prepared statements got lost, as they do behind a pooler in transaction mode."""
        return self._cache == 0
