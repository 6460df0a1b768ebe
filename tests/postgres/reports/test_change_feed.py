"""The state of rows for those who follow them: with every type of key, and without reading whole tables."""

from __future__ import annotations

import json

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import migrate
from reconciler.postgres.reports.change_feed import _BEFORE, OVERLAP, ChangeFeed, GenerationChange
from tests.postgres.books import Books, opened

KEYS = {
    "uuid": "uuid PRIMARY KEY DEFAULT gen_random_uuid()",
    "bigint": "bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY",
    "integer": "integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY",
    "text": "text PRIMARY KEY DEFAULT 'gen_' || left(md5(random()::text), 8)",
    "varchar": "varchar(64) PRIMARY KEY DEFAULT gen_random_uuid()",
}


async def created(dsn: str, key: str) -> None:
    """Create the smallest table that an application may have."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        f"""CREATE TABLE public.generations (id {key}, user_id text, status text NOT NULL DEFAULT 'queued',
                task_id text, asset_url text, created_at timestamptz NOT NULL DEFAULT now())"""
    )
    await connection.close()
    await migrate(dsn)


async def add_event(books: Books, generation_id: str, kind: str = "succeeded") -> int:
    """Write an event of this generation; return its id."""
    sql = """INSERT INTO reconciler.events (key, generation_id, kind, payload)
             VALUES (gen_random_uuid()::text, $1, $2, '{}') RETURNING id"""
    found: int = await books.pool.fetchval(sql, generation_id, kind)
    return found


@pytest.mark.parametrize("key", KEYS)
async def test_rows_are_found_by_keys_of_any_kind_and_what_is_no_key_is_passed_over(empty_dsn: str, key: str) -> None:
    await created(empty_dsn, KEYS[key])
    async with opened(empty_dsn) as books:
        feed = ChangeFeed(books.database, books.table)
        one, two = [await books.insert(user_id="anna"), await books.insert(user_id=None, asset_url="https://ours/2")]
        event = await add_event(books, two)
        strange = ["", "nobody", "\x00", "\ud800", "9" * 30, "' OR true --", "00000000-0000-0000-0000-000000000000"]
        found = await feed.of([(one, 0), (two, 0), (two, event), *((name, 1 << 40) for name in strange)])
        assert sorted(found, key=lambda happening: happening.kind) == [
            GenerationChange(one, "anna", "queued", "status", None, None),
            GenerationChange(two, None, "queued", "succeeded", "https://ours/2", event),
        ]
        assert await feed.since(0, "anna") == []
        assert [happening.id for happening in await feed.since(0, None) or ()] == [two]


async def test_every_notified_event_is_returned_in_order(rows_dsn: str) -> None:
    async with opened(rows_dsn) as books:
        generation_id = await books.insert()
        events = [await add_event(books, generation_id, kind) for kind in ("gave_up", "recovered")]
        notifications = [(generation_id, event) for event in reversed(events)]
        found = await ChangeFeed(books.database, books.table).of(notifications)
        assert [(happening.event, happening.kind) for happening in found] == [
            (events[0], "gave_up"),
            (events[1], "recovered"),
        ]


async def test_the_newest_is_zero_at_first_and_everything_comes_after_zero(rows_dsn: str) -> None:
    async with opened(rows_dsn) as books:
        feed = ChangeFeed(books.database, books.table)
        assert (await feed.newest(), await feed.since(0, None)) == (0, [])
        event = await add_event(books, await books.insert())
        assert await feed.newest() == event
        assert [one.event for one in await feed.since(event - 1, None) or ()] == [event]
        assert await feed.since(event + 1, None) is None
        assert [one.event for one in await feed.since(event, None) or ()] == [event], "the overlap"


async def test_an_event_that_a_hook_held_back_is_returned_however_many_overtook_it(rows_dsn: str) -> None:
    async with opened(rows_dsn) as books:
        feed = ChangeFeed(books.database, books.table)
        generation_id = await books.insert()
        async with books.pool.acquire() as connection, connection.transaction():
            held_back = await connection.fetchval(
                """INSERT INTO reconciler.events (key, generation_id, kind, payload) VALUES ('slow', $1, 'failed', '{}')
                   RETURNING id""",
                generation_id,
            )
            overtaking = [await add_event(books, generation_id) for _ in range(OVERLAP + 20)]
            assert held_back not in {one.event for one in await feed.since(overtaking[-1], None) or ()}
        assert held_back in {one.event for one in await feed.since(overtaking[-1], None) or ()}


async def test_long_past_events_are_not_returned_again(rows_dsn: str) -> None:
    async with opened(rows_dsn) as books:
        generation_id = await books.insert()
        events = [await add_event(books, generation_id) for _ in range(OVERLAP + 20)]
        await books.pool.execute("UPDATE reconciler.events SET at = at - interval '1 hour' WHERE id < $1", events[-1])
        found = await ChangeFeed(books.database, books.table).since(events[-1], None)
        assert [one.event for one in found or ()] == events[-OVERLAP:]


@pytest.mark.soak
async def test_looking_up_a_hundred_rows_reads_no_table_from_end_to_end(dsn: str) -> None:
    async with opened(dsn) as books:
        await books.pool.execute("ALTER TABLE public.generations DISABLE TRIGGER USER")
        await books.pool.execute(
            """INSERT INTO public.generations (user_id, status)
               SELECT gen_random_uuid(), 'success' FROM generate_series(1, 100000)"""
        )
        await books.pool.execute(
            """INSERT INTO reconciler.events (key, generation_id, kind, payload)
               SELECT id::text, id::text, 'succeeded', '{}' FROM public.generations"""
        )
        await books.pool.execute("ANALYZE public.generations, reconciler.events")
        feed = ChangeFeed(books.database, books.table)
        ids = [str(row["id"]) for row in await books.pool.fetch("SELECT id FROM public.generations LIMIT 100")]
        newest = await feed.newest()
        for events in ([], list(range(newest - 500, newest))):
            assert scanned(await planned(books, *feed._of.present(ids=ids, events=events))) == set()
        await books.pool.execute("UPDATE reconciler.events SET at = at + id * interval '1 second'")
        await books.pool.execute("ANALYZE reconciler.events")
        assert scanned(await planned(books, *_BEFORE(event=newest - 10))) == set()


async def planned(books: Books, sql: str, *values: object) -> dict[str, object]:
    plan: dict[str, object] = json.loads(await books.pool.fetchval(f"EXPLAIN (FORMAT json) {sql}", *values))[0]["Plan"]
    return plan


def scanned(plan: dict[str, object]) -> set[str]:
    """Return the tables that a plan reads from end to end."""
    own = {str(plan["Relation Name"])} if plan["Node Type"] == "Seq Scan" else set()
    inner = plan.get("Plans", [])
    assert isinstance(inner, list)
    return own.union(*map(scanned, inner))
