"""The output of `migrate --print`, run as one script, does the same as `migrate`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import behind, migrate, printed
from testkit.tables import older_table, supabase_like
from tests.postgres.catalog import applied, catalog


@pytest.fixture
async def connection(empty_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


async def cleared(connection: Any) -> None:
    """Empty the database again."""
    await connection.execute(
        "DROP SCHEMA reconciler CASCADE; DROP TABLE IF EXISTS public.generations;"
        "DROP FUNCTION IF EXISTS public.cleanup_old_failed_generations, public.touch_updated_at;"
        "DROP OWNED BY reconciler"
    )


@pytest.mark.parametrize(
    ("older", "application", "strict"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, False), (True, True, True)],
)
async def test_the_printed_sql_leads_to_the_same_database(
    empty_dsn: str, connection: Any, older: bool, application: bool, strict: bool
) -> None:
    text = printed(application=application, strict_statuses=strict)
    if older:
        await older_table(connection)
    await migrate(empty_dsn, application=application, strict_statuses=strict)
    wanted = await catalog(connection), await applied(connection)

    await cleared(connection)
    if older:
        await older_table(connection)
    await connection.execute(text)
    assert (await catalog(connection), await applied(connection)) == wanted
    await connection.execute(text)
    assert (await catalog(connection), await applied(connection)) == wanted
    assert await behind(connection) == []
    assert await migrate(empty_dsn, application=application, strict_statuses=strict) == []


async def test_it_runs_in_a_supabase_database_too(connection: Any, empty_dsn: str) -> None:
    await supabase_like(connection)
    await older_table(connection, row_security=True, asset_url=False)
    await connection.execute(printed(application=True, strict_statuses=False))
    assert await migrate(empty_dsn, application=True) == []


async def test_an_index_of_the_application_is_enough(connection: Any) -> None:
    await older_table(connection)
    await connection.execute("CREATE INDEX theirs ON public.generations (task_id, status)")
    await connection.execute(printed(application=True, strict_statuses=False))
    assert "index generations_task_id" not in await catalog(connection)
    assert "index generations_created_at" in await catalog(connection)


async def test_a_table_without_asset_url_does_not_stop_the_rest(connection: Any) -> None:
    await older_table(connection, asset_url=False)
    await connection.execute(printed(application=False, strict_statuses=False))
    assert await behind(connection) == ["031_triggers.sql", "040_open_index.sql", "041_failed_index.sql"]


async def test_the_indexes_of_a_large_table_stand_alone_at_the_end(connection: Any) -> None:
    text = printed(application=True, strict_statuses=False)
    alone = "\n".join(line[3:] for line in text.splitlines() if line.startswith(("-- CREATE INDEX", "--  ")))
    statements = [statement for statement in alone.split(";") if statement.strip()]
    await connection.execute(text)
    before = await catalog(connection)
    await connection.execute(
        "DROP INDEX public.generations_task_id, public.generations_user_id_created_at,"
        " public.generations_created_at, public.generations_reconciler_open, public.generations_reconciler_failed"
    )
    for statement in statements:
        await connection.execute(statement)
    assert await catalog(connection) == before


def test_every_statement_waits_for_locks_only_a_while() -> None:
    text = printed(application=True, strict_statuses=True)
    assert text.count("BEGIN;\nSET LOCAL lock_timeout = '5s';") == text.count("\nCOMMIT;")
