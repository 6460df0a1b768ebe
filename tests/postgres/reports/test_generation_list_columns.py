"""Lists of rows from tables with any columns, and the values read from columns that may hold anything."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.pool import Database
from reconciler.postgres.reports.generation_list import LONGEST_ADDRESS, GenerationList, addresses, cursor
from reconciler.postgres.reports.reports import ReportScope
from reconciler.postgres.schema import introspect
from testkit.rows import THEIRS

URLS = ("https://a.example/1.png?x=1&y=2", "https://a.example/2.png")
BARE = "user_id text, status text, task_id text, asset_url text, created_at timestamp DEFAULT now()"


@asynccontextmanager
async def listing_on(dsn: str, columns: str) -> AsyncIterator[tuple[Any, GenerationList]]:
    """Create a table of these columns instead of the specification's, and yield its list."""
    database = Database(dsn, size=1)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        await pool.execute("DROP TABLE public.generations CASCADE")
        await pool.execute(f"CREATE TABLE public.generations ({columns})")
        async with pool.acquire() as connection:
            table = await introspect(connection)
        yield pool, GenerationList(database, table, ReportScope())
    await database.close()


@pytest.mark.parametrize(
    ("id_type", "ids"),
    [("uuid", ["0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11", "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"]),
     ("bigint", ["1", "9223372036854775807"]), ("text", ["a", "ü 'b'"]), ("varchar(3)", ["abc", "xyz"])],
)  # fmt: skip
async def test_a_table_with_the_least_columns_is_listed_by_any_id(dsn: str, id_type: str, ids: list[str]) -> None:
    async with listing_on(dsn, f"id {id_type} PRIMARY KEY, {BARE}") as (pool, listing):
        for name in ids:
            sql = f"INSERT INTO public.generations (id, user_id, status) VALUES ($1::text::{id_type}, 'ann', 'queued')"
            await pool.execute(sql, name)

        (first,) = await listing.page("ann", limit=1)
        (second,) = await listing.page("ann", limit=1, after=cursor(first))
        assert {first.id, second.id} == set(ids)
        assert await listing.page("ann", after=cursor(second)) == ()
        assert await listing.one(ids[0], "ann") is not None
        assert await listing.one(ids[0], "bob") is None
        assert (first.kind, first.model, first.prompt, first.error, first.preview_url) == (None,) * 5
        assert (first.asset_urls, first.result_urls, first.completed_at) == ((), (), None)
        assert await listing.with_result(THEIRS, "ann") == ()
        assert await listing.stuck("ann") == ()


async def test_a_name_longer_than_its_column_does_not_find_another_row(dsn: str) -> None:
    columns = BARE.replace("user_id text", "user_id varchar(3)")
    async with listing_on(dsn, f"id varchar(3) PRIMARY KEY, {columns}") as (pool, listing):
        await pool.execute("INSERT INTO public.generations (id, user_id, status) VALUES ('abc', 'ann', 'queued')")

        assert await listing.page("anna") == ()
        assert await listing.one("abcd") is None
        assert [row.id for row in await listing.page("ann")] == ["abc"]


@pytest.mark.parametrize(
    ("column", "cast"), [("jsonb", "jsonb"), ("json", "json"), ("text", "text"), ("text[]", None), ("varchar[]", None)]
)
async def test_addresses_are_read_from_a_column_of_any_type(dsn: str, column: str, cast: str | None) -> None:
    async with listing_on(dsn, f"id text PRIMARY KEY, {BARE}, result_urls {column}, asset_urls {column}") as made:
        pool, listing = made
        value: object = json.dumps(URLS) if cast else list(URLS)
        place = f"$1::text::{cast}" if cast else "$1"
        sql = f"INSERT INTO public.generations VALUES ('a', 'ann', 'success', 't', NULL, now(), {place}, {place})"
        await pool.execute(sql, value)

        (row,) = await listing.page("ann")
        assert (row.result_urls, row.asset_urls) == (URLS, URLS)
        for url in URLS:
            assert [one.id for one in await listing.with_result(url, "ann")] == ["a"]
            assert await listing.with_result(url[:-1], "ann") == ()


async def test_json_that_escapes_its_slashes_holds_the_same_addresses(dsn: str) -> None:
    async with listing_on(dsn, f"id text PRIMARY KEY, {BARE}, result_urls json") as (pool, listing):
        held = json.dumps([URLS[0]]).replace("/", "\\/")
        await pool.execute("INSERT INTO public.generations VALUES ('a', 'ann', 'success', 't', '', now(), $1)", held)

        assert [one.result_urls for one in await listing.with_result(URLS[0], "ann")] == [URLS[:1]]


async def test_older_names_and_reasons_in_json_are_read(dsn: str) -> None:
    older = "type text, model_id text, prompt json, error_message jsonb, completed_at timestamp"
    async with listing_on(dsn, f"id text PRIMARY KEY, {BARE}, {older}") as (pool, listing):
        await pool.execute(
            """INSERT INTO public.generations VALUES ('a', 'ann', 'failed', 't', '', '2026-01-01', 'video', 'veo3',
                      '"a heron"', '"nsfw content"', '2026-01-01 00:01')"""
        )
        (row,) = await listing.page("ann")
        assert (row.kind, row.model, row.prompt, row.error) == ("video", "veo3", "a heron", "nsfw content")
        assert row.completed_at is not None
        assert (row.completed_at - row.created_at).total_seconds() == 60


@pytest.mark.parametrize(
    ("held", "read"),
    [
        (None, ()), ("", ()), ("null", ()), ("7", ()), ("{}", ()), ("[]", ()), ('""', ()),
        ('{"url": "https://a.example/1.png"}', ()), ('[["https://a.example/1.png"], 7, null, {}, ""]', ()),
        (f'[7, "{URLS[0]}", null, "{URLS[1]}"]', URLS), (URLS[0], URLS[:1]), (f'"{URLS[0]}"', URLS[:1]),
        (json.dumps([f"{URLS[0]}\ud800", URLS[0]]), URLS[:1]), ("[" * 200_000, ()), ("[1, 2", ("[1, 2",)),
        (json.dumps(["https://a.example/" + "x" * LONGEST_ADDRESS, URLS[0]]), URLS[:1]),
    ],
)  # fmt: skip
def test_only_the_texts_in_json_of_any_shape_are_addresses(held: str | None, read: tuple[str, ...]) -> None:
    assert addresses(held) == read


def test_of_many_addresses_the_first_fifty_are_shown() -> None:
    many = [f"https://a.example/{n}.png" for n in range(60)]

    assert addresses(json.dumps(many)) == tuple(many[:50])


async def test_a_column_without_an_end_is_not_read(dsn: str) -> None:
    async with listing_on(dsn, f"id text PRIMARY KEY, {BARE}, result_urls jsonb, prompt text") as (pool, listing):
        many = "(SELECT jsonb_agg('https://a.example/' || n) FROM generate_series(1, 20000) AS n)"
        sql = f"""INSERT INTO public.generations
                  VALUES ('a', 'ann', 'success', 't', repeat('x', 9000), now(), {many}, repeat('y', 30000))"""
        await pool.execute(sql)

        (row,) = await listing.page("ann")
        assert (row.result_urls, row.asset_url, row.prompt) == ((), None, "y" * 20_000)


async def test_json_that_postgresql_itself_cannot_unpack_breaks_no_page(dsn: str) -> None:
    async with listing_on(dsn, f"id text PRIMARY KEY, {BARE}, result_urls json, error json") as (pool, listing):
        await pool.execute(
            r"""INSERT INTO public.generations VALUES
                ('a', 'ann', 'failed', 't', '', now(), '["\u0000", "\ud800", "https://a.example/2.png"]', '"\udfff"')"""
        )
        (row,) = await listing.page("ann")
        assert row.result_urls[-1] == URLS[1]
        assert row.error is not None
        assert json.dumps([*row.result_urls, row.error], ensure_ascii=False).encode()


async def test_rows_without_a_time_are_paged_too(dsn: str) -> None:
    async with listing_on(dsn, f"id text PRIMARY KEY, {BARE}") as (pool, listing):
        await pool.execute(
            "INSERT INTO public.generations (id, status, created_at)"
            " VALUES ('a', 'queued', NULL), ('b', 'queued', now()), ('c', 'queued', NULL), ('d', 'queued', NULL)"
        )
        listed: list[str] = []
        after = None
        while page := await listing.page(None, after=after, limit=1):
            listed.append(page[0].id)
            after = cursor(page[0])

        assert listed == ["d", "c", "a", "b"]
