"""Whether the database has what everything else takes for granted: our tables, and the application's as we need it.

Asked once, by the composition root, before anything is built on it.
"""

from __future__ import annotations

import structlog

from reconciler.errors import Config
from reconciler.postgres.eligibility import readable
from reconciler.postgres.migrations.migrate import behind
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import TableShape, introspect

log = structlog.get_logger()


async def usable(database: Database, pattern: str) -> TableShape:
    """Look at the tables; Config where they are not usable, or the pattern for task ids is not."""

    async def look() -> TableShape:
        async with database.transaction() as connection:
            return await introspect(connection)

    # Of what nothing runs without: what the first file made, a later one, and the last.
    for table in ("work", "watching"):
        if await database.value("SELECT to_regclass($1) IS NULL", f"reconciler.{table}"):
            raise Config(f"the table reconciler.{table} is not there", hint="run: kie-reconciler migrate")
    if not await _has(database, "refused"):
        raise Config("the table reconciler.work has no column refused", hint="run: kie-reconciler migrate")
    shape = await database.run(look)
    await readable(database.value, pattern)
    if files := await missing(database):
        log.warning("schema.behind", files=files, do="run: kie-reconciler migrate")
    return shape


async def traceable(database: Database) -> bool:
    """Whether the column is there that holds a generation's trace together."""
    return await _has(database, "traceparent")


async def _has(database: Database, column: str) -> bool:
    """Whether `reconciler.work` has this column."""
    named = "attrelid = 'reconciler.work'::regclass AND attname = $1"
    there: bool = await database.value(f"SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE {named})", column)
    return there


async def missing(database: Database) -> list[str]:
    """Return the migrations that this version has and the database lacks."""

    async def look() -> list[str]:
        async with database.transaction() as connection:
            return await behind(connection)

    return await database.run(look)
