"""Locks of other sessions: how long a migration waits for them, and which session holds one that it did not get.

This holds the lock that lets one migration run at a time, and the limited tries of a statement that needs a lock on the
application's table. Only `migrate` calls it; the daemon's statements never wait like this.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import asyncpg

from reconciler.errors import Transient
from reconciler.postgres.connection import QualifiedConnection
from reconciler.postgres.errors import AGAIN, AWAY

T = TypeVar("T")

_MIGRATIONS: Final = 7_103_241_869
"""The advisory lock of migrations: any number that no other program takes."""

_BLOCKERS: Final = """
SELECT format('pid %s (%s, user %s, %s, in its transaction for %s s)', pid,
              coalesce(nullif(application_name, ''), 'no name'), usename, coalesce(state, 'unknown'),
              coalesce(round(extract(epoch FROM now() - xact_start)), 0))
  FROM pg_stat_activity
 WHERE pid = ANY (pg_blocking_pids($1))
 ORDER BY xact_start NULLS LAST
 LIMIT 3
"""


@dataclass(frozen=True, slots=True)
class LockPatience:
    """How long to wait for other sessions, in seconds.

    `lock` is also how long the application's statements may queue behind ours, at each of `tries`. `build` is for a
    concurrent index, which is tried once because no statement waits for it. `turn` is for another migration.
    """

    lock: float = 1.0
    tries: int = 5
    pause: float = 1.0
    build: float = 60.0
    turn: float = 60.0


async def take_turn(connection: asyncpg.Connection, patience: LockPatience) -> None:
    """Become the only migration of this database until the connection closes; Transient when another one does not end.

    It polls: a session that waits inside the lock holds a snapshot, and a concurrent index build waits for that.
    """
    try:
        async with asyncio.timeout(patience.turn):
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _MIGRATIONS):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise Transient(
            "another migration is running and does not end",
            code="migration_running",
            hint="look for application_name 'kie-reconciler migrate' in pg_stat_activity",
        ) from error


async def patiently(
    dsn: str, connection: asyncpg.Connection, work: Callable[[], Awaitable[T]], patience: LockPatience
) -> T:
    """Await `work`, again while another session holds a lock that it needs; at last Transient, naming the session."""
    for _ in range(patience.tries - 1):
        try:
            return await work()
        except AGAIN:
            await asyncio.sleep(patience.pause)
    over = asyncio.Event()
    watcher = asyncio.create_task(_watch(dsn, connection.get_server_pid(), over))
    try:
        return await work()
    except AGAIN as error:
        over.set()
        held = await watcher
        raise Transient(
            "another session holds a lock that the migration needs; this step was left undone",
            code="locked",
            hint=f"wait for it or end it, then migrate again: {held}",
        ) from error
    finally:
        over.set()
        await watcher


async def _watch(dsn: str, pid: int, over: asyncio.Event) -> str:
    """Wait until a session blocks this backend, and return its description.

    It ends with `over` and is never cancelled: asyncpg leaves a future behind when it is cancelled while it connects.
    """
    held = "it was released just now"
    if await _comes(over, 0.05):
        return held
    try:
        connection = await asyncpg.connect(dsn, timeout=5, statement_cache_size=0, connection_class=QualifiedConnection)
        try:
            while not (rows := await connection.fetch(_BLOCKERS, pid)):
                if await _comes(over, 0.1):
                    return held
        finally:
            await connection.close(timeout=5)
    except AWAY:
        return "unknown, because the database gave no second connection"
    return "; ".join(row[0] for row in rows)


async def _comes(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event; return whether it came within so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
