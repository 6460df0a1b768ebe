"""The ledger works with any type of id and list and without optional columns, and writes only changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from reconciler.domain.model import Fail, Trigger
from reconciler.postgres.migrations.migrate import migrate
from tests.postgres.books import OURS, Books, asset, delivered, opened, resting


@dataclass(frozen=True)
class Table:
    """A table of some application: `columns` beside the required ones, `success` is its word for success."""

    id: str = "uuid PRIMARY KEY DEFAULT gen_random_uuid()"
    columns: str = ""
    success: str = "success"
    begun: str = "generating"
    values: tuple[tuple[str, Any], ...] = ()


SERIAL = "bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY"
NAMED = "text PRIMARY KEY DEFAULT 'gen_' || left(md5(random()::text), 8)"
OLDER = "CHECK (status IN ('queued', 'pending', 'processing', 'completed', 'failed'))"
TABLES = {
    "the least": Table(),
    "jsonb": Table(columns="result_urls jsonb, asset_urls jsonb, error text, updated_at timestamptz"),
    "text[]": Table(SERIAL, "result_urls text[], asset_urls text[], error_message text"),
    "varchar[]": Table(SERIAL, "result_urls varchar[], asset_urls varchar(200)[]"),
    "json": Table(NAMED, "result_urls json, error jsonb, model text, kind text", values=(("model", "m"),)),
    "text": Table("varchar(64) PRIMARY KEY DEFAULT gen_random_uuid()", "result_urls text, type text, model_id text"),
    "everything": Table(
        "integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY",
        "original_path text, preview_status text, preview_url varchar(300), completed_at timestamptz,"
        " error varchar(20), result_urls text[] NOT NULL DEFAULT '{}'",
    ),
    "no nulls": Table(columns="error text NOT NULL DEFAULT 'none'"),
    "no nulls in json": Table(columns="error jsonb NOT NULL DEFAULT '{}'"),
    "older": Table(columns=f"result_urls text[], {OLDER}", success="completed", begun="queued"),
}


async def created(dsn: str, table: Table) -> None:
    columns = ["user_id uuid", "status text NOT NULL DEFAULT 'queued'", "task_id text", "asset_url text"]
    columns += ["created_at timestamptz NOT NULL DEFAULT now()", *([table.columns] if table.columns else [])]
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE TABLE public.generations (id {table.id}, {', '.join(columns)})")
    finally:
        await connection.close()
    await migrate(dsn)


def read_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else json.loads(value)


async def begins(books: Books, table: Table) -> str:
    generation_id = await books.insert(**dict(table.values))
    (claim,) = await books.claims().woken({generation_id: Trigger.NOTIFY})
    row = (await books.ledger().read([generation_id]))[generation_id].row
    await books.ledger().rest(row, claim, resting(begun=True))
    assert (await books.generation(generation_id))["status"] == table.begun
    return generation_id


@pytest.mark.parametrize("name", TABLES)
async def test_a_generation_succeeds_and_another_fails_in_any_table(empty_dsn: str, name: str) -> None:
    table = TABLES[name]
    await created(empty_dsn, table)
    async with opened(empty_dsn) as books:
        assert await books.claims().discover() == 0
        good = await begins(books, table)
        row, claim = await books.held(good)
        row = await books.stored(row, claim, sources=2)
        assert await books.ledger().finish(row, claim, delivered(2)) == "succeeded"
        assert_written(await books.generation(good), table, list(row.sources))

        bad = await begins(books, table)
        row, claim = await books.held(bad)
        reason = "a reason that is longer than twenty characters"
        assert await books.ledger().fail(row, claim, Fail(reason)) == "failed"
        failed = await books.generation(bad)
        assert failed["status"] == "failed"
        written = failed.get("error", failed.get("error_message", reason))
        assert written in (reason, json.dumps(reason), reason[:20])
        assert await books.events(good) + await books.events(bad) == ["succeeded", "failed"]


def assert_written(generation: Any, table: Table, sources: list[str]) -> None:
    addresses = list(delivered(2).addresses)
    assert (generation["status"], generation["asset_url"]) == (table.success, f"{OURS}?0")
    if "result_urls" in generation:
        assert read_list(generation["result_urls"]) == sources
    if "asset_urls" in generation:
        assert read_list(generation["asset_urls"]) == addresses
    if "original_path" in generation:
        assert (generation["original_path"], generation["preview_status"]) == (asset(0).path, "none")
        assert generation["completed_at"] is not None
    if "updated_at" in generation:
        assert generation["updated_at"] is not None


WATCH = """
CREATE TABLE public.written (was jsonb, is_now jsonb);
CREATE FUNCTION public.watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.written VALUES (to_jsonb(OLD) - 'updated_at', to_jsonb(NEW) - 'updated_at');
    RETURN NULL;
END
$$;
CREATE TRIGGER watched AFTER UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.watch();
"""


async def test_the_applications_row_is_written_only_where_a_value_changes(dsn: str) -> None:
    async with opened(dsn) as books:
        await books.pool.execute(WATCH)
        generation_id = await books.insert()
        for _ in range(3):
            row, claim = await books.held(generation_id)
            await books.ledger().note(row, claim)
            await books.ledger().rest(row, claim, resting())
        row, claim = await books.held(generation_id)
        await books.ledger().leave(row, claim, "nothing to do")
        assert await statuses(books) == []

        for _ in range(3):
            row, claim = await books.held(generation_id)
            await books.ledger().rest(row, claim, resting(begun=True))
        row, claim = await books.held(generation_id)
        row = await books.stored(row, claim)
        assert await statuses(books) == [("queued", "generating")]
        assert await books.ledger().finish(row, claim, delivered()) == "succeeded"
        assert await statuses(books) == [("queued", "generating"), ("generating", "success")]


async def statuses(books: Books) -> list[tuple[str, str]]:
    assert await books.pool.fetchval("SELECT count(*) FROM public.written WHERE was = is_now") == 0
    rows = await books.pool.fetch("SELECT was ->> 'status' AS was, is_now ->> 'status' AS now FROM public.written")
    return [(row["was"], row["now"]) for row in rows]
