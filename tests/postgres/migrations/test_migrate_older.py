"""An older application's table keeps what it has and gets what it lacks; a second run changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import behind, migrate
from reconciler.postgres.schema import introspect
from testkit.tables import older_table, supabase_like
from tests.postgres.catalog import catalog

SPECIFIED = frozenset({"queued", "generating", "success", "failed", "cancelled"})
OLDER = frozenset({"pending", "processing", "completed"})


@pytest.fixture
async def connection(empty_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


async def rows(connection: Any, *without: str) -> list[dict[str, Any]]:
    found = await connection.fetch("SELECT * FROM public.generations ORDER BY id")
    return [{name: value for name, value in row.items() if name not in without} for row in found]


async def statuses(connection: Any) -> dict[str, str]:
    return dict(await connection.fetch("SELECT prompt, status FROM public.generations"))


@pytest.mark.parametrize("supabase", [False, True])
@pytest.mark.parametrize("asset_url", [False, True])
async def test_bringing_it_up_twice_changes_no_row_and_the_second_time_nothing(
    empty_dsn: str, connection: Any, supabase: bool, asset_url: bool
) -> None:
    if supabase:
        await supabase_like(connection)
    await older_table(connection, asset_url=asset_url, row_security=supabase)
    before = await rows(connection)
    columns = set(before[0])

    assert await migrate(empty_dsn, application=True)
    after = await catalog(connection)
    assert await migrate(empty_dsn, application=True) == []
    assert await catalog(connection) == after
    assert await behind(connection) == []

    table = await introspect(connection)
    added = set(table.columns) - columns
    assert added == {"provider", "options", "asset_urls", "preview_url"} | (set() if asset_url else {"asset_url"})
    assert await rows(connection, *added) == before
    assert (table.kind_columns[0], table.model_columns[0], table.success) == ("type", "model_id", "success")
    assert table.statuses == SPECIFIED | OLDER


async def test_both_vocabularies_may_be_written_afterwards(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    await migrate(empty_dsn, application=True)
    for word in SPECIFIED | OLDER:
        await connection.execute("UPDATE public.generations SET status = $1", word)
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE public.generations SET status = 'melted'")


async def test_a_word_of_their_own_stays_allowed(empty_dsn: str, connection: Any) -> None:
    """In the old CHECK, or only in a row of a table that had none."""
    await older_table(connection)
    await connection.execute(
        "ALTER TABLE public.generations DROP CONSTRAINT generations_status_check;"
        "UPDATE public.generations SET status = 'it''s archived' WHERE prompt = 'failed';"
        "ALTER TABLE public.generations ADD CHECK (status = ANY (ARRAY['pending', 'completed', 'it''s archived',"
        " 'processing', 'paused']))"
    )
    await migrate(empty_dsn, application=True)
    await connection.execute("UPDATE public.generations SET status = 'paused' WHERE prompt = 'stored'")
    assert (await statuses(connection))["failed"] == "it's archived"
    await connection.execute("UPDATE public.generations SET status = 'cancelled' WHERE prompt = 'failed'")


async def test_a_table_without_any_check_gets_one_that_holds_every_row(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    await connection.execute(
        "ALTER TABLE public.generations DROP CONSTRAINT generations_status_check;"
        "UPDATE public.generations SET status = 'melted' WHERE prompt = 'failed'"
    )
    await migrate(empty_dsn, application=True)
    assert (await introspect(connection)).statuses == SPECIFIED | {"pending", "processing", "completed", "melted"}
    assert await connection.fetchval(
        "SELECT bool_and(convalidated) FROM pg_constraint WHERE conrelid = 'public.generations'::regclass"
    )


async def test_strict_statuses_converts_the_rows_and_refuses_the_older_words(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    before = await statuses(connection)
    await migrate(empty_dsn, application=True, strict_statuses=True)
    words = {"pending": "queued", "processing": "generating", "completed": "success", "failed": "failed"}
    assert await statuses(connection) == {prompt: words[word] for prompt, word in before.items()}
    assert (await introspect(connection)).statuses == SPECIFIED
    made = await connection.fetchval(
        "INSERT INTO public.generations (user_id, type, model_id, model_name)"
        " VALUES (gen_random_uuid(), 'image', 'm', 'M') RETURNING status"
    )
    assert made == "queued"


async def test_strict_statuses_twice_and_then_without_changes_nothing(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    await migrate(empty_dsn, application=True)
    await migrate(empty_dsn, application=True, strict_statuses=True)
    before = await catalog(connection), await rows(connection)
    assert await migrate(empty_dsn, application=True, strict_statuses=True) == []
    assert await migrate(empty_dsn, application=True) == []
    assert (await catalog(connection), await rows(connection)) == before
    assert await behind(connection) == []


async def test_a_table_with_little_more_than_an_id_gets_everything(empty_dsn: str, connection: Any) -> None:
    await connection.execute(
        "CREATE TABLE public.generations (id bigint PRIMARY KEY); INSERT INTO generations VALUES (1)"
    )
    await migrate(empty_dsn, application=True)
    table = await introspect(connection)
    assert table.id_type == "bigint"
    specified = (
        "user_id kind model_key provider task_id status prompt options result_urls asset_url asset_urls preview_url"
    )
    assert {*specified.split(), "error", "created_at", "updated_at"} <= set(table.columns)
    assert await behind(connection) == []
