"""Lists of rows on real PostgreSQL: only the user's own, in order, page by page."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from reconciler.domain.model import DurationModel
from reconciler.domain.poll_interval import PRIORS
from reconciler.errors import Permanent
from reconciler.postgres.pool import Database
from reconciler.postgres.reports.generation_list import GenerationList, cursor
from reconciler.postgres.reports.reports import ReportScope
from reconciler.postgres.schema import introspect
from testkit.rows import HOUR, OURS, THEIRS, add, keep

ANN = "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"
BOB = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def database(rows_dsn: str) -> AsyncIterator[Database]:
    database = Database(rows_dsn, size=2)
    yield database
    await database.close()


@pytest.fixture
async def pool(rows_dsn: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(rows_dsn, min_size=1, max_size=2) as connections:
        yield connections


@pytest.fixture
async def listing(pool: Any, database: Database) -> GenerationList:
    return await listing_of(pool, database)


async def listing_of(pool: Any, database: Database, **scope: Any) -> GenerationList:
    async with pool.acquire() as connection:
        return GenerationList(database, await introspect(connection), ReportScope(**scope))


async def test_a_row_is_listed_as_the_application_wrote_it(pool: Any, listing: GenerationList) -> None:
    row = await add(
        pool, "success", HOUR, user_id=ANN, prompt="a heron", task_id="t-1", asset_url=f"{OURS}/one.png",
        asset_urls=json.dumps([f"{OURS}/one.png", f"{OURS}/two.png"]), result_urls=json.dumps([THEIRS]),
        preview_url="https://preview.example/one.png",
    )  # fmt: skip
    await keep(pool, row, seen_task="t-1", key_hash="cafe", delivered_at_in=-600)

    found = await listing.one(row, ANN)

    assert found is not None
    assert (found.id, found.user_id, found.task_id, found.status) == (row, ANN, "t-1", "success")
    assert (found.kind, found.model, found.prompt, found.error) == ("image", "flux-2/pro", "a heron", None)
    assert found.asset_url == f"{OURS}/one.png"
    assert found.asset_urls == (f"{OURS}/one.png", f"{OURS}/two.png")
    assert (found.result_urls, found.preview_url) == ((THEIRS,), "https://preview.example/one.png")
    assert (found.now - found.created_at).total_seconds() == pytest.approx(3600, abs=5)
    assert found.completed_at is not None
    assert (found.now - found.completed_at).total_seconds() == pytest.approx(600, abs=5)
    assert (found.key_hash, found.why) == ("cafe", None)


async def test_a_user_gets_their_own_rows_only(pool: Any, listing: GenerationList) -> None:
    hers, his = await add(pool, user_id=ANN), await add(pool, user_id=BOB)
    nobodys = await add(pool)

    assert [row.id for row in await listing.page(ANN)] == [hers]
    assert {row.id for row in await listing.page(None)} == {hers, his, nobodys}
    assert [row.id for row in await listing.these([his, hers, nobodys], ANN)] == [hers]
    assert await listing.one(his, ANN) is None
    assert await listing.one(nobodys, ANN) is None
    assert [row.id for row in await listing.of_task("task", ANN)] == [hers]
    assert await listing.of_task("task", str(uuid4())) == ()


@pytest.mark.parametrize("stranger", ["no uuid", "", "\x00"])
async def test_a_user_whose_id_no_row_can_hold_has_no_rows(pool: Any, listing: GenerationList, stranger: str) -> None:
    await add(pool)

    assert await listing.page(stranger) == ()
    assert await listing.of_task("task", stranger) == ()


@pytest.mark.parametrize("name", ["no uuid", "\x00", "a" * 100_000])
async def test_a_name_that_is_no_id_finds_nothing(pool: Any, listing: GenerationList, name: str) -> None:
    assert await listing.one(name) is None
    assert await listing.of_task(name, ANN) == ()


async def test_pages_go_from_the_newest_on_and_each_row_comes_once(pool: Any, listing: GenerationList) -> None:
    ids = [await add(pool, age=n // 2 * MINUTE, user_id=ANN) for n in range(7)]
    # Rows of the same time are ordered by their ids.
    await pool.execute("UPDATE public.generations SET created_at = date_trunc('minute', created_at)")
    await add(pool, user_id=BOB)
    in_order = "SELECT id::text FROM public.generations WHERE user_id = $1 ORDER BY created_at DESC, id DESC"
    wanted = [row["id"] for row in await pool.fetch(in_order, ANN)]

    listed: list[str] = []
    after = None
    while page := await listing.page(ANN, after=after, limit=2):
        assert len(page) <= 2
        listed += [row.id for row in page]
        after = cursor(page[-1])

    assert listed == wanted
    assert sorted(listed) == sorted(ids)


async def test_impossible_times_break_no_page(pool: Any, listing: GenerationList) -> None:
    times = ["infinity", "-infinity", "4000-01-01 BC", "12000-01-01"]
    for time in times:
        row = await add(pool)
        await pool.execute(
            "UPDATE public.generations SET created_at = $2::text::timestamptz WHERE id::text = $1", row, time
        )

    listed = []
    after = None
    while page := await listing.page(None, after=after, limit=1):
        listed.append(page[0].id)
        after = cursor(page[0])

    assert (len(listed), len(set(listed))) == (4, 4)


async def test_a_page_may_be_of_some_statuses(pool: Any, listing: GenerationList) -> None:
    failed = await add(pool, "failed", user_id=ANN)
    await add(pool, "success", user_id=ANN)

    assert [row.id for row in await listing.page(ANN, statuses=["failed"])] == [failed]
    assert len(await listing.page(ANN, statuses=["failed", "success"])) == 2
    assert await listing.page(ANN, statuses=["queued"]) == ()


async def test_a_place_where_no_page_ended_is_refused(listing: GenerationList) -> None:
    forged: list[object] = [
        [], {}, 7, ["2026-01-01"], ["2026-01-01", "no uuid"], ["once upon a time", ANN], ["2026-99-01", ANN],
        ["\x00", ANN], [7, ANN], ["2026-01-01", 7], [["2026-01-01"], ANN], ["2026-01-01", ANN, 1],
    ]  # fmt: skip
    places = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in forged]
    for place in ("x", "%%%", "Zm9v", "é", "\ud800", *places):
        for read in (listing.page, listing.stuck):
            with pytest.raises(Permanent) as refused:
                await read(None, after=place)
            assert refused.value.code == "bad_cursor", place


async def test_the_stuck_are_those_in_flight_for_too_long_the_oldest_first(pool: Any, listing: GenerationList) -> None:
    older, old = await add(pool, age=3 * HOUR, user_id=ANN), await add(pool, "queued", 2 * HOUR, user_id=ANN)
    await add(pool, age=MINUTE, user_id=ANN)
    await add(pool, "success", 3 * HOUR, user_id=ANN)
    await add(pool, age=3 * HOUR, user_id=ANN, provider="fal")
    oldest = await add(pool, age=4 * HOUR, user_id=BOB)
    await keep(pool, older, why="KIE: timeout")

    assert [row.id for row in await listing.stuck(None)] == [oldest, older, old]
    assert [(row.id, row.why) for row in await listing.stuck(ANN)] == [
        (older, "KIE: timeout"), (old, "no replica has looked at it yet"),
    ]  # fmt: skip
    assert [row.id for row in await listing.stuck(ANN, statuses=["queued"])] == [old]
    (first,) = await listing.stuck(None, limit=1)
    assert [row.id for row in await listing.stuck(None, after=cursor(first))] == [older, old]


async def test_from_which_age_on_a_row_is_stuck_is_a_setting(pool: Any, database: Database) -> None:
    row = await add(pool, age=MINUTE)

    patient, hasty = [await listing_of(pool, database, stuck_after=n * MINUTE) for n in (2, 0.5)]

    assert [[one.id for one in await listing.stuck(None)] for listing in (patient, hasty)] == [[], [row]]


async def test_the_curve_is_the_learned_one_else_that_of_the_kind(pool: Any, listing: GenerationList) -> None:
    await pool.execute(
        "INSERT INTO reconciler.pace (model, mu, sigma) VALUES ('veo3', $1, 0.4), ('new', NULL, NULL)", math.log(200)
    )
    known = await add(pool, kind="video", model_key="veo3")
    new = await add(pool, kind="video", model_key="new")
    nameless = await add(pool, kind=None, model_key=None)

    curves = {row.id: row.curve for row in await listing.page(None)}

    assert curves == {known: DurationModel(math.log(200), 0.4), new: PRIORS["video"], nameless: PRIORS[None]}


async def test_the_key_of_an_earlier_task_is_not_listed(pool: Any, listing: GenerationList) -> None:
    row = await add(pool, task_id="second")
    await keep(pool, row, seen_task="first", key_hash="cafe")

    found = await listing.one(row)

    assert found is not None
    assert found.key_hash is None


async def test_a_result_is_found_among_the_rows_of_its_user(pool: Any, listing: GenerationList) -> None:
    hers = await add(pool, "success", user_id=ANN, result_urls=json.dumps([f"{THEIRS}?1", f'{THEIRS}?a="b"\\c']))
    await add(pool, "success", user_id=ANN, result_urls=json.dumps([f"{THEIRS}?2"]))

    for url in (f"{THEIRS}?1", f'{THEIRS}?a="b"\\c'):
        assert [row.id for row in await listing.with_result(url, ANN)] == [hers]
        assert [row.id for row in await listing.with_result(url, None)] == [hers]
        assert await listing.with_result(url, BOB) == ()
    for part in (THEIRS, f"{THEIRS}?", f"{THEIRS}?1 ", "%", "", "\x00", "\ud800"):
        assert await listing.with_result(part, ANN) == ()
