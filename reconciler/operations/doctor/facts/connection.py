"""What stands between us and the database: who answers, in which mode a pooler works, whether a notification arrives.

Two connections of its own, none of a pool: only so it can be told whether two statements met the same server process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg

from reconciler.operations.doctor.database import DatabaseConnection, DatabaseServer
from reconciler.postgres.connection import SETTINGS, reached
from reconciler.postgres.errors import permitted, translated

T = TypeVar("T")

CHANNEL: Final = "reconciler_doctor"
"""A channel that no daemon listens to."""

_SERVER: Final = """
SELECT current_setting('server_version_num')::int AS version,
       NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off' AS writable,
       extract(epoch FROM clock_timestamp())::float8 AS now
"""

_PID: Final = "SELECT pg_backend_pid()"


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection made as the daemon makes its own; Config and Transient as there."""
    connection = await translated(lambda: reached(dsn, lambda: _connect(dsn)))
    try:
        yield connection
    finally:
        connection.terminate()


async def _connect(dsn: str) -> asyncpg.Connection:
    return await asyncpg.connect(dsn, timeout=10, command_timeout=10, server_settings=SETTINGS, statement_cache_size=0)


async def reading(connection: asyncpg.Connection, read: Callable[[], Awaitable[T]]) -> T:
    """Read in one transaction that can write nothing, which also keeps a pooler from changing the server midway."""

    async def whole() -> T:
        async with connection.transaction(readonly=True):
            return await read()

    return await permitted(translated, whole)


async def server(connection: asyncpg.Connection, clock: Callable[[], float] = time.time) -> DatabaseServer:
    """Who answers, and what its clock says beside `clock`, in Unix time."""
    before = clock()
    row = await reading(connection, lambda: connection.fetchrow(_SERVER))
    ours = (before + clock()) / 2
    major, minor = divmod(row["version"], 10_000)
    return DatabaseServer((major, minor), row["writable"], row["now"] - ours)


async def line(connection: asyncpg.Connection, other: asyncpg.Connection, *, within: float = 5.0) -> DatabaseConnection:
    """How we are connected, by what two connections meet; a notification is waited for `within` seconds."""
    first = await reading(connection, lambda: connection.fetchval(_PID))
    # The number that the greeting named; a pooler makes up its own.
    pooled = first != connection.get_server_pid()

    async def held() -> tuple[int, int]:
        return await other.fetchval(_PID), await reading(connection, lambda: connection.fetchval(_PID))

    taken, again = await reading(other, held)
    if taken == first or again != first:
        return DatabaseConnection(pooled=True, transaction_mode=True, heard=None)
    return DatabaseConnection(pooled=pooled, transaction_mode=False, heard=await _heard(connection, other, within))


async def _heard(connection: asyncpg.Connection, other: asyncpg.Connection, within: float) -> float | None:
    word, came = secrets.token_hex(8), asyncio.Event()

    def noticed(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if payload == word:
            came.set()

    await translated(lambda: connection.add_listener(CHANNEL, noticed))
    sent = time.monotonic()
    await permitted(translated, lambda: other.execute(f"SELECT pg_notify('{CHANNEL}', '{word}')"))
    try:
        async with asyncio.timeout(within):
            await came.wait()
    except TimeoutError:
        return None
    finally:
        await translated(lambda: connection.remove_listener(CHANNEL, noticed))
    return time.monotonic() - sent
