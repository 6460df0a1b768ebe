"""Whether the database has what everything else needs: our tables, and usable columns in the application's.

The composition root calls it once, before it builds anything on the database.
"""

import structlog

from reconciler.errors import Config
from reconciler.postgres.eligibility import readable
from reconciler.postgres.migrations.migrate import behind
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import TableShape, introspect

log = structlog.get_logger()


async def usable(database: Database, pattern: str) -> TableShape:
    """Return the application's table; Config where the tables, or the pattern for task ids, are not usable."""

    async def read() -> TableShape:
        async with database.transaction() as connection:
            return await introspect(connection)

    # Tables that nothing runs without: one of the first file, one of a later file, and a column of the last.
    for name in ("work", "watching"):
        if await database.value("SELECT to_regclass($1) IS NULL", f"reconciler.{name}"):
            raise Config(f"the table reconciler.{name} is not there", hint="run: kie-reconciler migrate")
    if not await _has(database, "refused"):
        raise Config("the table reconciler.work has no column refused", hint="run: kie-reconciler migrate")
    table = await database.run(read)
    await readable(database.value, pattern)
    if files := await missing(database):
        log.warning("schema.behind", files=files, do="run: kie-reconciler migrate")
    return table


async def traceable(database: Database) -> bool:
    """Whether `reconciler.work` has the column that keeps a generation's trace."""
    return await _has(database, "traceparent")


async def _has(database: Database, column: str) -> bool:
    """Whether `reconciler.work` has this column."""
    condition = "attrelid = 'reconciler.work'::regclass AND attname = $1"
    exists: bool = await database.value(
        f"SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE {condition})", column
    )
    return exists


async def missing(database: Database) -> list[str]:
    """Return the migrations that this version has and the database lacks."""

    async def read() -> list[str]:
        async with database.transaction() as connection:
            return await behind(connection)

    return await database.run(read)
