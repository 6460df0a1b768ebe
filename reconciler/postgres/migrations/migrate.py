"""Applies the SQL files: in order, each in a transaction of its own, recorded, by one process at a time.

The record of applied files lives here, and the meaning of a refusal. `migration_files` finds the files,
`migration_locks` waits for other sessions' locks. The commands `migrate` and `doctor` call it, and the daemon at start.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import asyncpg

from reconciler.errors import Config, Permanent
from reconciler.postgres.connection import reached
from reconciler.postgres.errors import AGAIN, AWAY, WRONG, translated
from reconciler.postgres.migrations.migration_files import MigrationFile, led_by, printed, scripts
from reconciler.postgres.migrations.migration_locks import LockPatience, patiently, take_turn

__all__ = ["LockPatience", "behind", "migrate", "printed"]

_PATIENCE = LockPatience()

_LED = f"SELECT {led_by('$1', '$2')}"

_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"

# A disabled trigger stays disabled; only a dropped one comes back with the next migration.
_DROPPED = """
SELECT EXISTS (
    SELECT FROM unnest($1::text[]) AS wanted
     WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass('public.generations') AND tgname = wanted))
"""

_RECORDING = """
SELECT quote_ident(current_user),
       EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = 'reconciler' AND c.relname = 'schema_version')
"""

_RECORD = """
INSERT INTO reconciler.schema_version AS was (file, sha256) VALUES ($1, $2)
    ON CONFLICT (file) DO UPDATE SET sha256 = excluded.sha256, applied_at = now()
    WHERE was.sha256 <> excluded.sha256
"""


async def migrate(
    dsn: str,
    *,
    application: bool = False,
    strict_statuses: bool = False,
    patience: LockPatience = _PATIENCE,
    warn: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Bring the database up to date and return the files that changed something.

    `warn` gets a sentence for each file that was left out. Raises Transient, naming the session that holds a lock
    which did not come free, and Config for faults that only a person can mend.
    """
    if strict_statuses and not application:
        raise Config("--strict-statuses changes the application's table: it goes with --application")
    chosen = scripts(application=application, strict_statuses=strict_statuses)
    connection = await translated(lambda: _connect(dsn))
    try:
        connection.add_log_listener(lambda _, message: _pass_on(message, warn))
        await translated(lambda: take_turn(connection, patience))
        applier = _Applier(dsn, connection, patience, warn)
        return await translated(lambda: applier.apply_all(chosen))
    finally:
        await connection.close(timeout=5)


async def behind(connection: asyncpg.Connection) -> list[str]:
    """Return the files that this version has and the database lacks.

    Files for the application's table count only once they were applied. Without the files of our own tables (010 to
    028, except for 025) nothing runs; without the others the daemon is only slower. Config where this login has no
    rights in our schema.
    """
    recorded = await _recorded(connection)
    table = await _exists(connection, "public.generations")
    missing = []
    for script in scripts(application=True, strict_statuses=True):
        if script.application:
            stale = recorded.get(script.name, script.sha256) != script.sha256
        elif script.repeated and not table:
            stale = False
        elif (index := script.mark("builds")) is not None:
            stale = not await connection.fetchval(_VALID, f"public.{index}")
        else:
            stale = recorded.get(script.name) != script.sha256
            # The leader calls this every few seconds: no statement that is not needed.
            if script.triggers and not stale:
                stale = await connection.fetchval(_DROPPED, script.triggers)
        if stale:
            missing.append(script.name)
    return missing


@dataclass(eq=False, repr=False)
class _Applier:
    """One migration under way: its connection, its patience, and the receiver of its warnings."""

    dsn: str
    connection: asyncpg.Connection
    patience: LockPatience
    warn: Callable[[str], None]

    async def apply_all(self, chosen: list[MigrationFile]) -> list[str]:
        """Apply these files in their order; return the names of those that changed something."""
        return [script.name for script in chosen if await self._apply(script)]

    async def _apply(self, script: MigrationFile) -> bool:
        if not script.repeated:
            recorded = await _recorded(self.connection)
            if recorded.get(script.name) == script.sha256:
                return False
        table = script.mark("follows")
        if table and not await _exists(self.connection, table):
            self.warn(f"{script.name} left out: there is no table {table} yet")
            return False
        try:
            return await self._patiently(script)
        except (*AGAIN, *AWAY, *WRONG):
            raise
        except asyncpg.PostgresError as error:
            self._refused(script, error)
        return False

    def _refused(self, script: MigrationFile, error: asyncpg.PostgresError) -> None:
        """Continue without a file that only improves things; raise for any other."""
        if script.repeated and not script.application:
            self.warn(f"{script.name} left out: {error}")
        elif isinstance(error, asyncpg.InsufficientPrivilegeError):
            hint = "migrate as the owner of the database's objects, or give the owner `migrate --print`"
            raise Config(f"{script.name}: {error}", hint=hint) from error
        else:
            hint = "this step was left undone; mend what it names, then migrate again"
            raise Permanent(f"{script.name}: {error}", code="migration_failed", hint=hint) from error

    async def _patiently(self, script: MigrationFile) -> bool:
        building = script.mark("builds") is not None
        work = self._build if building else self._run
        patience = replace(self.patience, tries=1) if building else self.patience
        return await patiently(self.dsn, self.connection, lambda: work(script), patience)

    async def _run(self, script: MigrationFile) -> bool:
        connection = self.connection
        async with connection.transaction():
            await _wait_at_most(connection, self.patience.lock)
            await connection.execute(script.text)
            # A transaction that wrote nothing has no number.
            changed = await connection.fetchval("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
            await connection.execute(_RECORD, script.name, script.sha256)
        return bool(changed)

    async def _build(self, script: MigrationFile) -> bool:
        """Build an index without a transaction; first remove the invalid index that an interrupted build left."""
        connection, index = self.connection, f"public.{script.mark('builds')}"
        leader = script.mark("unless-led-by")
        if leader and await connection.fetchval(_LED, leader, index):
            return False
        valid = await connection.fetchval(_VALID, index)
        if valid:
            return False
        await _wait_at_most(connection, self.patience.build)
        try:
            if valid is not None:
                await connection.execute(f"DROP INDEX CONCURRENTLY {index}")
            await connection.execute(script.text)
        finally:
            await _wait_at_most(connection, 0)
        await connection.execute(_RECORD, script.name, script.sha256)
        return True


async def _connect(dsn: str) -> asyncpg.Connection:
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, timeout=10, statement_cache_size=0)

    connection = await reached(dsn, connect)
    if connection.get_server_version().major < 14:
        await connection.close(timeout=5)
        raise Config("this PostgreSQL is older than 14", hint="DATABASE_URL needs PostgreSQL 14 or newer")
    # The limits of a role suit requests, not the build of an index over a large table.
    await connection.execute("SET application_name = 'kie-reconciler migrate'; SET statement_timeout = 0")
    return connection


async def _wait_at_most(connection: asyncpg.Connection, seconds: float) -> None:
    """Limit the wait for each lock, inside a transaction until its end; 0 = no limit."""
    local = "LOCAL " if connection.is_in_transaction() else ""
    await connection.execute(f"SET {local}lock_timeout = {round(seconds * 1000)}")


async def _recorded(connection: asyncpg.Connection) -> dict[str, str]:
    # A refused statement would end the transaction, so the right is checked first.
    login, recording = await connection.fetchrow(_RECORDING)
    if not recording:
        return {}
    try:
        rows = await connection.fetch("SELECT file, sha256 FROM reconciler.schema_version")
    except asyncpg.InsufficientPrivilegeError as error:
        hint = f"make it a member of the role that may: GRANT reconciler TO {login};"
        raise Config("this login may not look into schema reconciler", hint=hint) from error
    return {row["file"]: row["sha256"] for row in rows}


async def _exists(connection: asyncpg.Connection, table: str) -> bool:
    return await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table) is True


def _pass_on(message: asyncpg.PostgresLogMessage, warn: Callable[[str], None]) -> None:
    if message.severity_en == "WARNING":
        warn(message.message)
