"""Applies the SQL files: in order, each in a transaction of its own, recorded, by one process at a time.

Files of phase `after` wait until no older daemon is alive. The meaning of a refusal is here, too. `migration_files`
finds the files, `missing_files` compares them with the record, `migration_locks` waits for other sessions' locks. The
command `migrate` calls it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import asyncpg

from reconciler.errors import Config, Permanent
from reconciler.postgres.connection import QualifiedConnection, pin, reached
from reconciler.postgres.errors import AGAIN, AWAY, WRONG, translated
from reconciler.postgres.migrations.migration_files import (
    BUCKET,
    RECORD_AGAIN,
    MigrationFile,
    led_by,
    printed,
    scripts,
)
from reconciler.postgres.migrations.migration_locks import LockPatience, patiently, take_turn
from reconciler.postgres.migrations.missing_files import (
    INDEX_IS_VALID,
    behind,
    daemons_before,
    exists,
    recorded_files,
)
from reconciler.postgres.migrations.schema_level import ALIVE, OlderDaemon
from reconciler.postgres.refusals import Peer

__all__ = ["LockPatience", "behind", "migrate", "printed"]

_PATIENCE = LockPatience()

_LED = f"SELECT {led_by('$1', '$2')}"

_RECORD = f"""
INSERT INTO reconciler.schema_version AS was (file, sha256, requires_level, requires_version) VALUES ($1, $2, $3, $4)
{RECORD_AGAIN}
"""


async def migrate(
    dsn: str,
    *,
    application: bool = False,
    strict_statuses: bool = False,
    patience: LockPatience = _PATIENCE,
    alive: timedelta = ALIVE,
    bucket: str = BUCKET,
    warn: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Bring the database up to date and return the files that changed something.

    `application` also makes `bucket`, where there is Supabase's storage. Files of phase `after` are left for later
    while an older daemon was seen within `alive`. `warn` gets a sentence for them, and for each file that was left out.
    Raises Transient, naming the session that holds a lock which did not come free, and Config for faults that only a
    person can mend.
    """
    if strict_statuses and not application:
        raise Config("--strict-statuses changes the application's table: it goes with --application")
    chosen = scripts(application=application, strict_statuses=strict_statuses)
    connection = await translated(lambda: _connect(dsn), Peer.of(dsn))
    try:
        connection.add_log_listener(lambda _, message: _pass_on(message, warn))
        await translated(lambda: take_turn(connection, patience))
        applier = _Applier(dsn, connection, patience, alive, bucket, warn)
        return await translated(lambda: applier.apply_all(chosen))
    finally:
        await connection.close(timeout=5)


@dataclass(eq=False, repr=False)
class _Applier:
    """One migration under way: its connection, its patience, and the receiver of its warnings."""

    dsn: str
    connection: asyncpg.Connection
    patience: LockPatience
    alive: timedelta
    bucket: str
    warn: Callable[[str], None]

    async def apply_all(self, chosen: list[MigrationFile]) -> list[str]:
        """Apply these files in their order; return the names of those that changed something."""
        applied, later, older = [], list[str](), dict[OlderDaemon, None]()
        for script in chosen:
            # Asked for each file: it also keeps a program that is too old from writing its older text over a newer one.
            recorded = await recorded_files(self.connection)
            if daemons := await daemons_before(self.connection, script, recorded, self.alive):
                later.append(script.name)
                older.update(dict.fromkeys(daemons))
            elif await self._apply(script, recorded):
                applied.append(script.name)
        if later:
            running = ", ".join(map(str, older))
            self.warn(
                f"{', '.join(later)} left for later, because older daemons still run: {running};"
                " restart them with this version, then migrate again"
            )
        return applied

    async def _apply(self, script: MigrationFile, recorded: Mapping[str, str]) -> bool:
        if not script.repeated and recorded.get(script.name) == script.sha256:
            return False
        table = script.mark("follows")
        if table and not await exists(self.connection, table):
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
            await connection.execute(f"SET LOCAL search_path {script.search_path}")
            await connection.execute("SELECT set_config('reconciler.bucket', $1, true)", self.bucket)
            await connection.execute(script.text)
            # A transaction that wrote nothing has no number.
            changed = await connection.fetchval("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
            await self._record(script)
        return bool(changed)

    async def _build(self, script: MigrationFile) -> bool:
        """Build an index without a transaction; first remove the invalid index that an interrupted build left."""
        connection, index = self.connection, f"public.{script.mark('builds')}"
        leader = script.mark("unless-led-by")
        if leader and await connection.fetchval(_LED, leader, index):
            return False
        valid = await connection.fetchval(INDEX_IS_VALID, index)
        if valid:
            return False
        await _wait_at_most(connection, self.patience.build)
        try:
            if valid is not None:
                await connection.execute(f"DROP INDEX CONCURRENTLY {index}")
            await connection.execute(script.text)
        finally:
            await _wait_at_most(connection, 0)
        await self._record(script)
        return True

    async def _record(self, script: MigrationFile) -> None:
        needs = (0, None) if script.requires is None else (script.requires.level, script.requires.version)
        await self.connection.execute(_RECORD, script.name, script.sha256, *needs)


async def _connect(dsn: str) -> asyncpg.Connection:
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, timeout=10, statement_cache_size=0, connection_class=QualifiedConnection)

    connection = await reached(dsn, connect)
    if connection.get_server_version().major < 14:
        await connection.close(timeout=5)
        raise Config("this PostgreSQL is older than 14", hint="DATABASE_URL needs PostgreSQL 14 or newer")
    # The limits of a role suit requests, not the build of an index over a large table.
    await connection.execute("SET application_name = 'kie-reconciler migrate'; SET statement_timeout = 0")
    await pin(connection)
    return connection


async def _wait_at_most(connection: asyncpg.Connection, seconds: float) -> None:
    """Limit the wait for each lock, inside a transaction until its end; 0 = no limit."""
    local = "LOCAL " if connection.is_in_transaction() else ""
    await connection.execute(f"SET {local}lock_timeout = {round(seconds * 1000)}")


def _pass_on(message: asyncpg.PostgresLogMessage, warn: Callable[[str], None]) -> None:
    if message.severity_en == "WARNING":
        warn(message.message)
