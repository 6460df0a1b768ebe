"""Connections to PostgreSQL: the settings of every session, and the faults of DATABASE_URL that only a person can mend.

The pool, the listener, `migrate` and `doctor` connect through `reached`, with a `QualifiedConnection`. The errors of
statements are in `errors`.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg

from reconciler.errors import Config
from reconciler.postgres.qualify import qualified

T = TypeVar("T")

SETTINGS = {
    "application_name": "kie-reconciler",
    "statement_timeout": "20s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

IGNORED = (
    f"pgbouncer.ini: ignore_startup_parameters = {', '.join(name for name in SETTINGS if name != 'application_name')}"
)
"""The line that PgBouncer needs, because it passes on only the parameters that it knows."""

UNFIT = (
    asyncpg.UndefinedObjectError,
    asyncpg.PostgresSyntaxError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
)
"""Raised for parameters of the address that are meant for other programs, for example Prisma's pgbouncer and schema."""

FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""The parameters of the address that name files."""

# A pooler makes up the process number of its greeting. Through one, a session is shared with other programs, so it
# keeps its search_path.
_PIN = """
SELECT CASE WHEN pg_catalog.pg_backend_pid() = $1::int THEN pg_catalog.set_config('search_path', '', false) END"""


_PIN_TRANSACTION = "SELECT pg_catalog.set_config('search_path', '', true)"


class QualifiedConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose statements call PostgreSQL's own functions, whatever the search_path is."""

    _intro_query: str

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what asyncpg gives, and rewrite the statement by which it learns of types: the first array runs it."""
        super().__init__(*args, **options)
        self._intro_query = qualified(self._intro_query.replace("!= 0", "!= 0::oid"))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Run one statement with arguments, or several without, for their effect."""
        status: str = await super().execute(qualified(query), *args, **options)
        return status

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[asyncpg.Record]:
        """Run one statement and return its rows."""
        rows: list[asyncpg.Record] = await super().fetch(qualified(query), *args, **options)
        return rows

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> asyncpg.Record | None:
        """Run one statement and return its first row, or None."""
        return await super().fetchrow(qualified(query), *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Run one statement and return a column of its first row, or None."""
        return await super().fetchval(qualified(query), *args, **options)

    async def executemany(self, command: str, args: Any, **options: Any) -> None:
        """Run one statement for each of the arguments."""
        await super().executemany(qualified(command), args, **options)

    async def prepare(self, query: str, **options: Any) -> Any:
        """Prepare one statement."""
        return await super().prepare(qualified(query), **options)

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        """Return a cursor over the rows of one statement."""
        return super().cursor(qualified(query), *args, **options)


async def pin(connection: asyncpg.Connection) -> None:
    """Empty the search_path of this session, so that operators are looked up among PostgreSQL's own alone.

    Only where nothing of the application runs: its triggers and hooks may name their tables without a schema. A
    session that goes through a pooler keeps its search_path.
    """
    await connection.execute(_PIN, connection.get_server_pid())


async def pin_transaction(connection: asyncpg.Connection) -> None:
    """Empty the search_path until the end of the transaction, through a pooler too: for reads of the catalogue."""
    await connection.execute(_PIN_TRANSACTION)


async def reached(dsn: str, connect: Callable[[], Awaitable[T]]) -> T:
    """Connect; Config where the server or this machine can never accept this address."""
    try:
        return await connect()
    except UNFIT as error:
        raise Config(f"DATABASE_URL: {error}", hint="remove that parameter from it") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Config(f"DATABASE_URL: {error}", hint="grant its login that right, or name another login") from error
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" not in str(error):
            raise
        raise Config(f"a pooler before the database does not take what we set: {error}", hint=IGNORED) from error
    except OSError as error:
        # A server that is away and a missing file raise the same error.
        if (name := _unreadable(dsn)) is None:
            raise
        raise Config(f"DATABASE_URL: {name} names a file that cannot be read", hint="correct that parameter") from error


def _unreadable(dsn: str) -> str | None:
    named = parse_qs(urlsplit(dsn).query)
    return next((name for name in FILES for path in named.get(name, ()) if not os.access(path, os.R_OK)), None)
