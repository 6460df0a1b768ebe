"""Connections to PostgreSQL: the settings of every session, and the faults of DATABASE_URL that only a person can mend.

The pool, the listener, `migrate` and `doctor` connect through `reached`. The errors of statements are in `errors`.
"""

import os
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg

from reconciler.errors import Config

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
