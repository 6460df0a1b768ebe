"""Which SQL files this version has and the database lacks.

`migrate` asks it for the record of applied files; `migrate --check`, `doctor`, the daemon's start and the leader's
snapshot ask it for what is missing. It writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg

from reconciler.errors import Config
from reconciler.postgres.connection import pin_transaction
from reconciler.postgres.migrations.migration_files import MigrationFile, scripts
from reconciler.postgres.migrations.schema_level import ALIVE, LEVEL, OlderDaemon, older_daemons, outdated

_COMPARES_TEXT: Final = "coalesce(pg_get_expr(indpred, indrelid), '') NOT LIKE '%citext%'"

INDEX_IS_VALID: Final = f"SELECT indisvalid AND {_COMPARES_TEXT} FROM pg_index WHERE indexrelid = to_regclass($1)::oid"
"""Whether an index can be used, no row where there is none. A former one compares citext, and our statements text."""

# A disabled trigger stays disabled; only a dropped one comes back with the next migration.
_DROPPED: Final = """
SELECT EXISTS (
    SELECT FROM unnest($1::text[]) AS wanted
     WHERE NOT EXISTS (SELECT FROM pg_trigger
                        WHERE tgrelid = to_regclass('public.generations')::oid AND tgname = wanted::name))
"""

_RECORDING: Final = """
SELECT quote_ident(current_user),
       EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = 'reconciler' AND c.relname = 'schema_version')
"""

# The record of 0.1.0 has no columns for what a file requires; they read as null.
_RECORDED: Final = """
SELECT file, sha256, coalesce((to_jsonb(v) ->> 'requires_level')::int, 0) AS level,
       to_jsonb(v) ->> 'requires_version' AS version
  FROM reconciler.schema_version AS v
"""


@dataclass(frozen=True, slots=True)
class MissingFiles:
    """The files that the database lacks.

    `migrate` would apply those of `due` now. Those of `later` wait until the daemons `older` have ended: until then the
    database is not behind.
    """

    due: tuple[MigrationFile, ...]
    later: tuple[MigrationFile, ...] = ()
    older: tuple[OlderDaemon, ...] = ()


async def missing_files(connection: asyncpg.Connection, alive: timedelta = ALIVE) -> MissingFiles:
    """Return the files that this version has and the database lacks; a daemon seen within `alive` counts as alive.

    Files for the application's table count only once they were applied. Config where this login has no rights in our
    schema, and where this version is too old for the database. It pins the caller's transaction.
    """
    await pin_transaction(connection)
    recorded = await recorded_files(connection)
    table = await exists(connection, "public.generations")
    due, later, older = list[MigrationFile](), list[MigrationFile](), dict[OlderDaemon, None]()
    for script in scripts(application=True, strict_statuses=True):
        if not await _is_missing(connection, script, recorded, table=table):
            continue
        waits_for = await daemons_before(connection, script, recorded, alive)
        older.update(dict.fromkeys(waits_for))
        (later if waits_for else due).append(script)
    return MissingFiles(tuple(due), tuple(later), tuple(older))


async def behind(connection: asyncpg.Connection, alive: timedelta = ALIVE) -> list[str]:
    """Return the names of the files that `migrate` would apply now; raises what `missing_files` raises."""
    return [script.name for script in (await missing_files(connection, alive)).due]


async def daemons_before(
    connection: asyncpg.Connection, script: MigrationFile, recorded: Mapping[str, str], alive: timedelta
) -> tuple[OlderDaemon, ...]:
    """Return the daemons that must end before this file may be applied; none where it is applied already."""
    if script.requires is None or recorded.get(script.name) == script.sha256:
        return ()
    if not await exists(connection, "reconciler.instances"):
        return ()
    return await older_daemons(connection, script.requires.level, alive)


async def recorded_files(connection: asyncpg.Connection) -> dict[str, str]:
    """Return the hashes of the applied files by name; Config where this version is too old for one of them."""
    # A refused statement would end the transaction, so the right is checked first.
    login, recording = await connection.fetchrow(_RECORDING)
    if not recording:
        return {}
    try:
        rows = await connection.fetch(_RECORDED)
    except asyncpg.InsufficientPrivilegeError as error:
        hint = f"make it a member of the role that may: GRANT reconciler TO {login};"
        raise Config("this login may not look into schema reconciler", hint=hint) from error
    if newest := max((row for row in rows if row["level"] > LEVEL), key=lambda row: int(row["level"]), default=None):
        raise outdated(newest["version"])
    return {row["file"]: row["sha256"] for row in rows}


async def exists(connection: asyncpg.Connection, table: str) -> bool:
    """Whether there is a table, or a view, with this name."""
    return await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table) is True


async def _is_missing(
    connection: asyncpg.Connection, script: MigrationFile, recorded: Mapping[str, str], *, table: bool
) -> bool:
    """Whether the database lacks this file; `table`: there is the application's table."""
    if script.application:
        return recorded.get(script.name, script.sha256) != script.sha256
    if script.repeated and not table:
        return False
    if (index := script.mark("builds")) is not None:
        return not await connection.fetchval(INDEX_IS_VALID, f"public.{index}")
    if recorded.get(script.name) != script.sha256:
        return True
    # The leader calls this every few seconds: no statement that is not needed.
    return bool(script.triggers and await connection.fetchval(_DROPPED, script.triggers))
