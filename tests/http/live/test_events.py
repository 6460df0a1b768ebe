"""What a page is told while it is open: its own generations, as they change, and what it missed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest

from reconciler.domain.model import Fail
from reconciler.postgres.reports.change_feed import FARTHEST, MOST, OVERLAP
from testkit.waiting import until
from tests.http.live.event_streams import ANNA, BORIS, Air, on_air
from tests.postgres.books import OURS, Books, delivered, opened


@pytest.fixture
async def books(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as found:
        yield found


@pytest.fixture
async def air(books: Books, rows_dsn: str) -> AsyncIterator[Air]:
    async with on_air(books, rows_dsn) as opened_air:
        yield opened_air


async def deliver(books: Books, generation_id: str) -> int:
    """Deliver this generation as a visit does; the id of the event."""
    row, claim = await books.held(generation_id)
    row = await books.stored(row, claim)
    assert await books.ledger().finish(row, claim, delivered()) == "succeeded"
    found: int = await books.pool.fetchval("SELECT max(id) FROM reconciler.events WHERE generation_id = $1", row.id)
    return found


async def happened(books: Books, count: int, user_id: str = ANNA) -> list[int]:
    """So many delivered generations of this user, each with its event; the events' ids."""
    sql = """
    WITH made AS (
        INSERT INTO public.generations (user_id, status, asset_url)
        SELECT $2::uuid, 'success', 'https://ours/' || n FROM generate_series(1, $1) n RETURNING id::text)
    INSERT INTO reconciler.events (key, generation_id, kind, payload)
    SELECT id, id, 'succeeded', '{}' FROM made RETURNING id"""
    return sorted(row["id"] for row in await books.pool.fetch(sql, count, user_id))


async def past(air: Air, books: Books, count: int) -> list[int]:
    """The same, once they have been told: what is told late comes to whoever opens the page by then."""
    async with air.reading() as operator:
        events = await happened(books, count)
        await until(lambda: len(operator.told) >= count or operator.of("resync"), what="all of them")
    return events


async def test_the_stream_is_one_that_no_cache_and_no_proxy_holds_back(air: Air) -> None:
    async with air.reading(ANNA) as anna:
        assert (anna.status, anna.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert (anna.headers["Cache-Control"], anna.headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert [one.event for one in anna.said] == ["hello"]


async def test_a_row_that_the_application_inserts_shows_at_its_owner_within_a_second_and_at_nobody_elses(
    air: Air, books: Books
) -> None:
    async with air.reading(ANNA) as anna, air.reading(BORIS) as boris, air.reading() as operator:
        began = time.monotonic()
        generation_id = await books.insert(user_id=ANNA)
        await until(lambda: anna.told and operator.told, within=1, what="the insert")
        assert time.monotonic() - began < 1
        expected = {"id": generation_id, "status": "queued", "kind": "status"}
        assert (anna.told, operator.told) == ([expected], [expected])
        assert anna.of("generation")[0].id is None
        # What comes for him after it proves that it would have come by now.
        theirs = await books.insert(user_id=BORIS)
        await until(lambda: boris.told, what="his own")
        assert [one["id"] for one in boris.told] == [theirs]


async def test_a_row_without_a_user_is_the_operators_alone(air: Air, books: Books) -> None:
    async with air.reading(ANNA) as anna, air.reading() as operator:
        nobodys = await books.insert(user_id=None)
        hers = await books.insert(user_id=ANNA)
        await until(lambda: anna.told and len(operator.told) == 2, what="both")
        assert (operator.rows, anna.rows) == (sorted([nobodys, hers]), [hers])


async def test_a_delivery_is_told_with_its_address_and_its_id_in_the_outbox(air: Air, books: Books) -> None:
    generation_id = await books.insert(user_id=ANNA)
    async with air.reading(ANNA) as anna:
        event = await deliver(books, generation_id)
        await until(lambda: anna.ids, what="the delivery")
        told = next(one for one in anna.of("generation") if one.id)
        address = f"{OURS}?0"
        assert told.id == str(event)
        assert told.data == {"id": generation_id, "status": "success", "kind": "succeeded", "assetUrl": address}


async def test_a_failure_is_told_with_its_kind(air: Air, books: Books) -> None:
    generation_id = await books.insert(user_id=ANNA)
    async with air.reading(ANNA) as anna:
        row, claim = await books.held(generation_id)
        await books.ledger().fail(row, claim, Fail("the provider refused it"))
        await until(lambda: anna.ids, what="the failure")
        assert anna.told[-1] == {"id": generation_id, "status": "failed", "kind": "failed"}


async def test_a_delivery_is_told_where_the_triggers_were_dropped(air: Air, books: Books) -> None:
    await books.pool.execute("ALTER TABLE public.generations DISABLE TRIGGER USER")
    try:
        generation_id = await books.insert(user_id=ANNA)
        async with air.reading(ANNA) as anna:
            event = await deliver(books, generation_id)
            await until(lambda: anna.ids == [event], within=1, what="the delivery")
            assert [one["status"] for one in anna.told] == ["success"]
    finally:
        await books.pool.execute("ALTER TABLE public.generations ENABLE TRIGGER USER")


async def test_whoever_comes_back_is_told_what_was_missed_and_of_nobody_elses(air: Air, books: Books) -> None:
    old = await happened(books, OVERLAP + 20)
    await books.pool.execute("UPDATE reconciler.events SET at = at - interval '1 hour' WHERE id < $1", old[-1])
    async with air.reading(ANNA) as anna:
        last = anna.of("hello")[0].id
        assert last == str(old[-1])
    await happened(books, 3, BORIS)
    missed = await happened(books, 5)
    async with air.reading(ANNA, last=last) as anna:
        await until(lambda: missed[-1] in anna.ids, what="the replay")
        assert [one for one in anna.ids if one > int(last)] == missed
        assert anna.of("resync") == []
        # The overlap brings some again, which a page knows by their ids, but not all of them.
        assert set(anna.ids) <= set(old[-OVERLAP:]) | set(missed)
        assert anna.of("hello")[0].id == last
    async with air.reading(last=last) as operator:
        await until(lambda: missed[-1] in operator.ids, what="the replay")
        assert len([one for one in operator.ids if one > int(last)]) == 8


async def test_an_event_that_became_visible_after_a_later_one_is_not_missed(air: Air, books: Books) -> None:
    (late,) = await happened(books, 1)
    generation_id = await books.pool.fetchval("SELECT generation_id FROM reconciler.events WHERE id = $1", late)
    await books.pool.execute("DELETE FROM reconciler.events WHERE id = $1", late)
    (seen,) = await happened(books, 1)
    sql = """INSERT INTO reconciler.events (id, key, generation_id, kind, payload) OVERRIDING SYSTEM VALUE
             VALUES ($1, 'late', $2, 'succeeded', '{}')"""
    await books.pool.execute(sql, late, generation_id)
    async with air.reading(ANNA, last=str(seen)) as anna:
        await until(lambda: late in anna.ids, what="the late one")


async def test_a_replay_tells_how_a_row_stands_now_not_how_it_stood(air: Air, books: Books) -> None:
    (event,) = await happened(books, 1)
    await books.pool.execute("UPDATE public.generations SET status = 'failed', asset_url = NULL")
    async with air.reading(ANNA, last=str(event - 1)) as anna:
        await until(lambda: anna.told, what="the replay")
        assert (anna.told[0]["status"], "assetUrl" in anna.told[0]) == ("failed", False)


async def test_an_id_that_is_not_ours_brings_a_call_to_fetch_the_list(air: Air, books: Books) -> None:
    (newest,) = await past(air, books, 1)
    for last in ("nonsense", "-1", "1.5", "999999999999999999", "9" * 40, "1; DROP TABLE events", "\u00b2", "0x1"):
        async with air.reading(ANNA, last=last) as anna:
            await until(lambda: anna.of("resync"), what=f"the call for {last}")
            assert (anna.of("hello")[0].id, anna.told) == (str(newest), [])


async def test_whoever_missed_too_much_fetches_the_list(air: Air, books: Books) -> None:
    events = await past(air, books, MOST + 1)
    async with air.reading(ANNA, last=str(events[0] - 1)) as anna:
        await until(lambda: anna.of("resync"), what="the call")
        assert anna.told == []
    async with air.reading(BORIS, last=str(events[0] - 1)) as boris:
        assert (boris.of("resync"), boris.told) == ([], [])
    sql = "SELECT setval(pg_get_serial_sequence('reconciler.events', 'id'), $1)"
    await books.pool.execute(sql, events[-1] + FARTHEST)
    await happened(books, 1)
    async with air.reading(BORIS, last=str(events[-1])) as boris:
        await until(lambda: boris.of("resync"), what="the call")


@pytest.mark.parametrize("channel", ["reconciler_events", "reconciler_generations"])
async def test_what_anybody_may_notify_harms_nobody(air: Air, books: Books, channel: str) -> None:
    generation_id = await books.insert(user_id=ANNA)
    async with air.reading(ANNA) as anna, air.reading(BORIS) as boris:
        ours = [
            {"id": generation_id, "event": said} for said in ("7", -1, True, 1.5, [1], 1 << 63, 1 << 200, 9_000_000)
        ]
        for said in (
            "", "[]", "null", "no json", "[" * 3000, {"id": None}, {"event": 1}, {"id": {"a": 1}, "event": 2}, *ours,
            {"id": "\ud800", "event": 3}, {"id": "zero\x00", "event": 4}, {"id": "x" * 7000, "event": 5},
        ):  # fmt: skip
            payload = said if isinstance(said, str) else json.dumps(said)
            await books.pool.execute("SELECT pg_notify($1, $2)", channel, payload)
        later = await books.insert(user_id=ANNA)
        await until(lambda: later in anna.rows, what="the next insert")
        assert set(anna.rows) <= {generation_id, later}
        assert (anna.ids, boris.told) == ([], [])
        assert not anna.ended


async def test_an_event_of_another_generation_is_not_told_with_this_one(air: Air, books: Books) -> None:
    (other,) = await happened(books, 1, BORIS)
    async with air.reading(ANNA) as anna:
        hers = await books.insert(user_id=ANNA)
        said = json.dumps({"id": hers, "event": other})
        await books.pool.execute("SELECT pg_notify('reconciler_events', $1)", said)
        last = await books.insert(user_id=ANNA)
        await until(lambda: last in anna.rows, what="the next")
        assert anna.ids == []
