"""`migrate --application` on the shop's own table: its statements go on, and the bucket is that of the setting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import behind, migrate, printed
from testkit import commands
from testkit.shop_table import SHOP_USER, YEARS, Year, shop_table
from testkit.tables import supabase_like
from tests.postgres.catalog import catalog

INSERT = (
    "INSERT INTO public.generations (user_id, type, model_id, model_name, prompt)"
    f" VALUES ('{SHOP_USER}', 'photo', 'nano-banana', 'Its name', 'a lighthouse') RETURNING status"
)
BUCKET = "the shop's"


@pytest.fixture
async def connection(empty_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


async def buckets(connection: Any) -> list[str]:
    return [row["id"] for row in await connection.fetch("SELECT id FROM storage.buckets WHERE public ORDER BY id")]


@pytest.mark.parametrize("year", YEARS)
async def test_the_default_that_its_check_refused_is_one_that_it_allows(
    empty_dsn: str, connection: Any, year: Year
) -> None:
    await shop_table(connection, year)
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.fetchval(INSERT)
    await migrate(empty_dsn, application=True)
    assert await connection.fetchval(INSERT) == "queued"
    assert await connection.fetchval("SELECT count(*) FROM public.recent_generations") == 1
    before = await catalog(connection)
    assert await migrate(empty_dsn, application=True) == []
    assert await catalog(connection) == before
    assert await behind(connection) == []


@pytest.mark.parametrize(("default", "kept"), [("'success'::text", "success"), ("NULL", None)])
async def test_a_default_that_the_check_allows_stays(
    empty_dsn: str, connection: Any, default: str, kept: str | None
) -> None:
    await shop_table(connection, 2025)
    await connection.execute(f"ALTER TABLE public.generations ALTER COLUMN status SET DEFAULT {default}")
    await migrate(empty_dsn, application=True)
    assert await connection.fetchval(INSERT) == kept


async def test_it_makes_the_bucket_of_the_setting_and_no_other(empty_dsn: str, connection: Any, tmp_path: Path) -> None:
    await supabase_like(connection)
    environment = {"DATABASE_URL": empty_dsn, "RECONCILER_STORAGE_BUCKET": BUCKET}
    ran = await commands.run("migrate", "--application", folder=tmp_path, environment=environment)
    assert ran.code == 0, ran.err
    assert await buckets(connection) == [BUCKET]
    rule = "SELECT qual FROM pg_policies WHERE schemaname = 'storage' AND policyname = $1"
    assert "the shop''s" in await connection.fetchval(rule, f"{BUCKET}_service_write")
    assert await migrate(empty_dsn, application=True, bucket=BUCKET) == []
    assert await behind(connection) == []


async def test_the_printed_sql_makes_the_same_bucket(connection: Any, tmp_path: Path) -> None:
    await supabase_like(connection)
    ran = await commands.run(
        "migrate", "--print", "--application", folder=tmp_path, environment={"RECONCILER_STORAGE_BUCKET": BUCKET}
    )
    assert ran.out.rstrip() == printed(application=True, strict_statuses=False, bucket=BUCKET).rstrip()
    await connection.execute(ran.out)
    assert await buckets(connection) == [BUCKET]
