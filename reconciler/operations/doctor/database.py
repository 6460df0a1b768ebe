"""The checks of the database server: version, connection, LISTEN, clock, realtime; and which daemons are alive.

Its two connections belong to no pool: only so can a check tell whether two statements met the same server process.
The application's table and our schema are in `table.py`, rights in `privileges.py`.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import asyncpg

from reconciler.operations.doctor import CLOCK_WARN, Check, NotKnown, fail, judge_clock, not_looked, ok, warn
from reconciler.postgres.connection import SETTINGS, QualifiedConnection, pin_transaction, reached
from reconciler.postgres.errors import permitted, translated
from reconciler.postgres.refusals import Peer

T = TypeVar("T")

OLDEST_VERSION: Final = 14

DAY: Final = 86_400.0

CHANNEL: Final = "reconciler_doctor"
"""No daemon listens to this channel."""

_DIRECT = "Use the direct address or the session pooler's in DATABASE_URL (at Supabase port 5432, not 6543)"

_SERVER: Final = """
SELECT current_setting('server_version_num')::int AS version,
       NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off' AS writable,
       extract(epoch FROM clock_timestamp())::float8 AS now
"""

_CLOCK_IS_READABLE: Final = """
SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = 'reconciler' AND c.relname = 'clock'
"""

_STEPPED: Final = """
SELECT greatest(extract(epoch FROM clock_timestamp() - stepped_at), 0)::float8 FROM reconciler.clock
 WHERE stepped_at IS NOT NULL
"""

_PID: Final = "SELECT pg_backend_pid()"

_PUBLICATIONS: Final = """
SELECT p.pubname::text AS name,
       p.pubupdate AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (
           SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)) AS nameless
  FROM pg_publication_tables AS t JOIN pg_publication AS p ON p.pubname = t.pubname
  JOIN pg_class AS c ON c.oid = to_regclass('public.generations')
 WHERE t.schemaname = 'public' AND t.tablename = 'generations' ORDER BY 1
"""

_VERSIONS: Final = """
SELECT version, count(*)::int AS count FROM reconciler.instances WHERE seen_at > now() - $1::interval GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """The server: `version` as major and minor number, `ahead` the seconds that its clock is before ours.

    `stepped` is how many seconds ago a daemon saw its clock step, None where none did.
    """

    version: tuple[int, int]
    writable: bool
    ahead: float
    stepped: float | None = None


@dataclass(frozen=True, slots=True)
class DatabaseConnection:
    """The way to the server: through a pooler or direct, and the seconds until a notification arrived.

    `notified_after` is None where none arrived.
    """

    pooled: bool
    transaction_mode: bool
    notified_after: float | None


@dataclass(frozen=True, slots=True)
class Publications:
    """The publications that carry the table; `without_identity`: one of them makes every UPDATE of a row fail."""

    names: tuple[str, ...]
    without_identity: bool


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect as the daemon does; raises Config and Transient as it does."""
    connection = await translated(lambda: reached(dsn, lambda: _connect(dsn)), Peer.of(dsn))
    try:
        yield connection
    finally:
        connection.terminate()


async def _connect(dsn: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        dsn,
        timeout=10,
        command_timeout=10,
        server_settings=SETTINGS,
        statement_cache_size=0,
        connection_class=QualifiedConnection,
    )


async def read_only(connection: asyncpg.Connection, read: Callable[[], Awaitable[T]], *, pinned: bool = True) -> T:
    """Read in one read-only transaction, during which a pooler cannot change the server process.

    With `pinned` its search_path is empty.
    """

    async def transaction() -> T:
        async with connection.transaction(readonly=True):
            if pinned:
                await pin_transaction(connection)
            return await read()

    return await permitted(translated, transaction)


async def read_server(connection: asyncpg.Connection, now: Callable[[], float] = time.time) -> DatabaseServer:
    """Return the server's version, and its clock beside `now`, which is in Unix time."""
    before = now()
    row = await read_only(connection, lambda: connection.fetchrow(_SERVER))
    ours = (before + now()) / 2
    major, minor = divmod(row["version"], 10_000)
    stepped: float | None = None
    # The table is missing before the first migration.
    if await read_only(connection, lambda: connection.fetchval(_CLOCK_IS_READABLE)):
        stepped = await read_only(connection, lambda: connection.fetchval(_STEPPED))
    return DatabaseServer((major, minor), row["writable"], row["now"] - ours, stepped)


def judge_server(server: DatabaseServer | NotKnown) -> Check:
    """Judge whether the daemon can work with this server."""
    if isinstance(server, NotKnown):
        do = server.do or "Check host and port in DATABASE_URL, this machine's network, and whether the server runs."
        return fail("database", server.reason, do)
    version = ".".join(map(str, server.version))
    if server.version[0] < OLDEST_VERSION:
        says = f"PostgreSQL {version} is older than {OLDEST_VERSION}"
        return fail("database", says, f"Use PostgreSQL {OLDEST_VERSION} or newer.")
    if not server.writable:
        do = "Use the primary server's address in DATABASE_URL. A full database can be read-only, too."
        return fail("database", f"PostgreSQL {version} is read-only here", do)
    return ok("database", f"PostgreSQL {version}")


def judge_database_clock(server: DatabaseServer) -> Check:
    """Judge the server's clock beside ours, and whether it was set within a day."""
    check = judge_clock("database_clock", "the database's", server.ahead)
    if check.word != "ok" or server.stepped is None or server.stepped > DAY:
        return check
    minutes = round(server.stepped / 60)
    return warn(
        "database_clock",
        f"the database's clock was set by more than {CLOCK_WARN:.0f} s, {minutes} minutes ago",
        "Find what sets the clock of the database's machine (NTP, a suspension); the log says clock.stepped each time.",
    )


async def read_connection(
    connection: asyncpg.Connection, other: asyncpg.Connection, *, within: float = 5.0
) -> DatabaseConnection:
    """Tell a pooler and its mode by the server processes that two connections meet; then try a notification.

    The notification has `within` seconds to arrive.
    """
    first = await read_only(connection, lambda: connection.fetchval(_PID))
    # A pooler makes up the process number of its greeting.
    pooled = first != connection.get_server_pid()

    async def both() -> tuple[int, int]:
        return await other.fetchval(_PID), await read_only(connection, lambda: connection.fetchval(_PID))

    process_of_other, second = await read_only(other, both)
    if process_of_other == first or second != first:
        return DatabaseConnection(pooled=True, transaction_mode=True, notified_after=None)
    notified_after = await _notify(connection, other, within)
    return DatabaseConnection(pooled=pooled, transaction_mode=False, notified_after=notified_after)


async def _notify(connection: asyncpg.Connection, other: asyncpg.Connection, within: float) -> float | None:
    """Return the seconds that a notification takes from the one to the other, None where it does not arrive."""
    sent_payload, arrived = secrets.token_hex(8), asyncio.Event()

    def receive(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if payload == sent_payload:
            arrived.set()

    await translated(lambda: connection.add_listener(CHANNEL, receive))
    sent_at = time.monotonic()
    await permitted(translated, lambda: other.execute(f"SELECT pg_notify('{CHANNEL}', '{sent_payload}')"))
    try:
        async with asyncio.timeout(within):
            await arrived.wait()
    except TimeoutError:
        return None
    finally:
        await translated(lambda: connection.remove_listener(CHANNEL, receive))
    return time.monotonic() - sent_at


def judge_connection(connection: DatabaseConnection | NotKnown) -> Check:
    """Judge the way to the server."""
    if isinstance(connection, NotKnown):
        return warn("connection", f"not known: {connection.reason}", connection.do)
    if connection.transaction_mode:
        says = "through a pooler in transaction mode: notifications never arrive, only the sweep finds rows"
        return warn("connection", says, f"{_DIRECT}.")
    return ok("connection", "through a pooler in session mode" if connection.pooled else "direct")


def judge_listen(connection: DatabaseConnection | NotKnown) -> Check:
    """Judge whether a notification arrives."""
    if isinstance(connection, NotKnown):
        return not_looked("listen", f"the connection is not known ({connection.reason})")
    if connection.transaction_mode:
        return warn("listen", "LISTEN cannot work through a pooler in transaction mode", f"{_DIRECT}.")
    if connection.notified_after is None:
        do = f"Check what is between this machine and the database. {_DIRECT}."
        return warn("listen", "a test notification did not arrive: only the sweep finds rows", do)
    return ok("listen", f"a test notification arrived in {1000 * connection.notified_after:.0f} ms")


async def read_versions(connection: asyncpg.Connection, alive: timedelta) -> Mapping[str, int]:
    """Return how many daemons of each version were seen within `alive`."""
    return {row["version"]: row["count"] for row in await connection.fetch(_VERSIONS, alive)}


async def read_publications(connection: asyncpg.Connection) -> Publications:
    """Return the publications that carry the table, and whether one of them makes its UPDATEs fail."""
    rows = await connection.fetch(_PUBLICATIONS)
    return Publications(tuple(row["name"] for row in rows), any(row["nameless"] for row in rows))


def judge_realtime(published: Publications) -> Check:
    """Tell which publications carry every change of a row; fail where one of them makes UPDATEs fail."""
    names = ", ".join(published.names)
    if published.without_identity:
        says = f"public.generations is in publication {names} without a replica identity: every UPDATE of it fails"
        return fail("realtime", says, "ALTER TABLE public.generations REPLICA IDENTITY FULL;")
    if names:
        return ok("realtime", f"publication {names} carries every change of public.generations to its subscribers")
    return ok("realtime", "public.generations is in no publication: browsers hear of changes from the daemon alone")
