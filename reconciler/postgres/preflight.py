"""Whether the database has what everything else needs: our tables, and usable columns in the application's.

The composition root calls it once, before it builds anything on the database.
"""

from datetime import timedelta

import structlog

from reconciler.errors import Config
from reconciler.postgres.eligibility import readable
from reconciler.postgres.migrations.missing_files import MissingFiles, missing_files
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import TableShape, introspect

log = structlog.get_logger()


async def usable(database: Database, pattern: str, alive: timedelta) -> TableShape:
    """Return the application's table; a daemon seen within `alive` counts as alive.

    Config where the tables, or the pattern for task ids, are not usable, and where this version is too old for the
    database.
    """

    async def read() -> TableShape:
        async with database.transaction() as connection:
            return await introspect(connection)

    # First: what a newer version has removed would look like a missing migration.
    files = [script.name for script in (await missing(database, alive)).due]
    # Tables that nothing runs without: one of the first file, one of a later file, and a column of the last.
    for name in ("work", "watching"):
        if await database.value("SELECT to_regclass($1) IS NULL", f"reconciler.{name}"):
            raise Config(f"the table reconciler.{name} is not there", hint="run: kie-reconciler migrate")
    for name, column in (("work", "refused"), ("instances", "level"), ("work", "line")):
        if not await _has(database, name, column):
            raise Config(f"the table reconciler.{name} has no column {column}", hint="run: kie-reconciler migrate")
    table = await database.run(read)
    await readable(database.value, pattern)
    if files:
        log.warning("schema.behind", files=files, do="run: kie-reconciler migrate")
    return table


async def traceable(database: Database) -> bool:
    """Whether `reconciler.work` has the column that keeps a generation's trace."""
    return await _has(database, "work", "traceparent")


async def _has(database: Database, table: str, column: str) -> bool:
    """Whether this table of ours has this column."""
    condition = "attrelid = $1::text::regclass::oid AND attname = $2"
    exists: bool = await database.value(
        f"SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE {condition})", f"reconciler.{table}", column
    )
    return exists


async def missing(database: Database, alive: timedelta) -> MissingFiles:
    """Return the migrations that this version has and the database lacks; raises what `missing_files` raises."""

    async def read() -> MissingFiles:
        async with database.transaction() as connection:
            return await missing_files(connection, alive)

    return await database.run(read)
