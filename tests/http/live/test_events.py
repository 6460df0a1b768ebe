"""The events of a stream: the changes of the reader's own generations, and the replay of missed ones."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest

from reconciler.domain.model import Fail
from reconciler.postgres.reports.change_feed import FARTHEST, MOST, OVERLAP
from testkit.waiting import until
from tests.http.live.event_streams import ANNA, BORIS, EventServer, listening_server
from tests.postgres.books import OURS, Books, delivered, opened


@pytest.fixture
async def books(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as connected:
        yield connected


@pytest.fixture
async def server(books: Books, rows_dsn: str) -> AsyncIterator[EventServer]:
    async with listening_server(books, rows_dsn) as opened_server:
        yield opened_server


async def deliver(books: Books, generation_id: str) -> int:
    """Deliver this generation as a visit does; return the id of the event."""
    row, claim = await books.held(generation_id)
    row = await books.stored(row, claim)
    assert await books.ledger().finish(row, claim, delivered()) == "succeeded"
    event: int = await books.pool.fetchval("SELECT max(id) FROM reconciler.events WHERE generation_id = $1", row.id)
    return event


async def add_delivered(books: Books, count: int, user_id: str = ANNA) -> list[int]:
    """Insert `count` delivered generations of this user with their events; return the events' ids."""
    sql = """
    WITH made AS (
        INSERT INTO public.generations (user_id, status, asset_url)
        SELECT $2::uuid, 'success', 'https://ours/' || n FROM generate_series(1, $1) n RETURNING id::text),
    told AS (
        INSERT INTO reconciler.events (key, generation_id, kind, payload)
        SELECT id, id, 'succeeded', '{}' FROM made RETURNING id, generation_id, kind)
    SELECT id, pg_notify('reconciler_events', json_build_object('event', id, 'id', generation_id, 'kind', kind)::text)
      FROM told"""
    return sorted(row["id"] for row in await books.pool.fetch(sql, count, user_id))


async def add_past_events(server: EventServer, books: Books, count: int) -> list[int]:
    """Insert delivered generations and wait until a stream got their events, so that no later stream gets them live."""
    async with server.reading() as operator:
        events = await add_delivered(books, count)
        await until(lambda: len(operator.changes) >= count or operator.of("resync"), what="all of them")
    return events


async def test_the_headers_forbid_caching_and_buffering(server: EventServer) -> None:
    async with server.reading(ANNA) as anna:
        assert (anna.status, anna.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert (anna.headers["Cache-Control"], anna.headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert [one.event for one in anna.events] == ["hello"]


async def test_an_inserted_row_reaches_its_owner_and_the_operator_within_a_second(
    server: EventServer, books: Books
) -> None:
    async with server.reading(ANNA) as anna, server.reading(BORIS) as boris, server.reading() as operator:
        began = time.monotonic()
        generation_id = await books.insert(user_id=ANNA)
        await until(lambda: anna.changes and operator.changes, within=1, what="the insert")
        assert time.monotonic() - began < 1
        expected = {"id": generation_id, "status": "queued", "kind": "status"}
        assert (anna.changes, operator.changes) == ([expected], [expected])
        assert anna.of("generation")[0].id is None
        # A later event for Boris proves that the first one was not sent to him.
        theirs = await books.insert(user_id=BORIS)
        await until(lambda: boris.changes, what="his own row")
        assert [one["id"] for one in boris.changes] == [theirs]


async def test_a_row_without_a_user_reaches_the_operator_alone(server: EventServer, books: Books) -> None:
    async with server.reading(ANNA) as anna, server.reading() as operator:
        nobodys = await books.insert(user_id=None)
        hers = await books.insert(user_id=ANNA)
        await until(lambda: anna.changes and len(operator.changes) == 2, what="both")
        assert (operator.rows, anna.rows) == (sorted([nobodys, hers]), [hers])


async def test_a_delivery_has_its_address_and_the_id_of_its_outbox_event(server: EventServer, books: Books) -> None:
    generation_id = await books.insert(user_id=ANNA)
    async with server.reading(ANNA) as anna:
        event = await deliver(books, generation_id)
        await until(lambda: anna.ids, what="the delivery")
        received = next(one for one in anna.of("generation") if one.id)
        address = f"{OURS}?0"
        assert received.id == str(event)
        assert received.data == {"id": generation_id, "status": "success", "kind": "succeeded", "assetUrl": address}


async def test_a_failure_has_its_kind(server: EventServer, books: Books) -> None:
    generation_id = await books.insert(user_id=ANNA)
    async with server.reading(ANNA) as anna:
        row, claim = await books.held(generation_id)
        await books.ledger().fail(row, claim, Fail("the provider refused it"))
        await until(lambda: anna.ids, what="the failure")
        assert anna.changes[-1] == {"id": generation_id, "status": "failed", "kind": "failed"}


async def test_a_delivery_reaches_the_stream_without_triggers(server: EventServer, books: Books) -> None:
    await books.pool.execute("ALTER TABLE public.generations DISABLE TRIGGER USER")
    try:
        generation_id = await books.insert(user_id=ANNA)
        async with server.reading(ANNA) as anna:
            event = await deliver(books, generation_id)
            await until(lambda: anna.ids == [event], within=1, what="the delivery")
            assert [one["status"] for one in anna.changes] == ["success"]
    finally:
        await books.pool.execute("ALTER TABLE public.generations ENABLE TRIGGER USER")


async def test_a_reader_that_comes_back_gets_the_missed_events_of_its_own_rows(
    server: EventServer, books: Books
) -> None:
    old = await add_delivered(books, OVERLAP + 20)
    await books.pool.execute("UPDATE reconciler.events SET at = at - interval '1 hour' WHERE id < $1", old[-1])
    async with server.reading(ANNA) as anna:
        last = anna.of("hello")[0].id
        assert last == str(old[-1])
    await add_delivered(books, 3, BORIS)
    missed = await add_delivered(books, 5)
    async with server.reading(ANNA, last=last) as anna:
        await until(lambda: missed[-1] in anna.ids, what="the replay")
        assert [one for one in anna.ids if one > int(last)] == missed
        assert anna.of("resync") == []
        # The overlap repeats some events, which a page recognises by their ids, but not all of them.
        assert set(anna.ids) <= set(old[-OVERLAP:]) | set(missed)
        assert anna.of("hello")[0].id == last
    async with server.reading(last=last) as operator:
        await until(lambda: missed[-1] in operator.ids, what="the replay")
        assert len([one for one in operator.ids if one > int(last)]) == 8


async def test_an_event_that_became_visible_after_a_later_one_is_not_missed(server: EventServer, books: Books) -> None:
    (late,) = await add_delivered(books, 1)
    generation_id = await books.pool.fetchval("SELECT generation_id FROM reconciler.events WHERE id = $1", late)
    await books.pool.execute("DELETE FROM reconciler.events WHERE id = $1", late)
    (seen,) = await add_delivered(books, 1)
    sql = """INSERT INTO reconciler.events (id, key, generation_id, kind, payload) OVERRIDING SYSTEM VALUE
             VALUES ($1, 'late', $2, 'succeeded', '{}')"""
    await books.pool.execute(sql, late, generation_id)
    async with server.reading(ANNA, last=str(seen)) as anna:
        await until(lambda: late in anna.ids, what="the late event")


async def test_a_replay_has_the_present_status_of_a_row(server: EventServer, books: Books) -> None:
    (event,) = await add_delivered(books, 1)
    await books.pool.execute("UPDATE public.generations SET status = 'failed', asset_url = NULL")
    async with server.reading(ANNA, last=str(event - 1)) as anna:
        await until(lambda: anna.changes, what="the replay")
        assert (anna.changes[0]["status"], "assetUrl" in anna.changes[0]) == ("failed", False)


async def test_an_unknown_last_event_id_causes_a_resync(server: EventServer, books: Books) -> None:
    (newest,) = await add_past_events(server, books, 1)
    for last in ("nonsense", "-1", "1.5", "999999999999999999", "9" * 40, "1; DROP TABLE events", "\u00b2", "0x1"):
        async with server.reading(ANNA, last=last) as anna:
            await until(lambda: anna.of("resync"), what=f"the resync for {last}")
            assert (anna.of("hello")[0].id, anna.changes) == (str(newest), [])


async def test_a_reader_that_missed_too_many_events_gets_a_resync(server: EventServer, books: Books) -> None:
    events = await add_past_events(server, books, MOST + 1)
    async with server.reading(ANNA, last=str(events[0] - 1)) as anna:
        await until(lambda: anna.of("resync"), what="the resync")
        assert anna.changes == []
    async with server.reading(BORIS, last=str(events[0] - 1)) as boris:
        assert (boris.of("resync"), boris.changes) == ([], [])
    sql = "SELECT setval(pg_get_serial_sequence('reconciler.events', 'id'), $1)"
    await books.pool.execute(sql, events[-1] + FARTHEST)
    await add_delivered(books, 1)
    async with server.reading(BORIS, last=str(events[-1])) as boris:
        await until(lambda: boris.of("resync"), what="the resync")


@pytest.mark.parametrize("channel", ["reconciler_events", "reconciler_generations"])
async def test_forged_notifications_cause_no_false_event(server: EventServer, books: Books, channel: str) -> None:
    generation_id = await books.insert(user_id=ANNA)
    async with server.reading(ANNA) as anna, server.reading(BORIS) as boris:
        ours = [
            {"id": generation_id, "event": event} for event in ("7", -1, True, 1.5, [1], 1 << 63, 1 << 200, 9_000_000)
        ]
        for message in (
            "", "[]", "null", "no json", "[" * 3000, {"id": None}, {"event": 1}, {"id": {"a": 1}, "event": 2}, *ours,
            {"id": "\ud800", "event": 3}, {"id": "zero\x00", "event": 4}, {"id": "x" * 7000, "event": 5},
        ):  # fmt: skip
            payload = message if isinstance(message, str) else json.dumps(message)
            await books.pool.execute("SELECT pg_notify($1, $2)", channel, payload)
        later = await books.insert(user_id=ANNA)
        await until(lambda: later in anna.rows, what="the next insert")
        assert set(anna.rows) <= {generation_id, later}
        assert (anna.ids, boris.changes) == ([], [])
        assert not anna.ended


async def test_an_event_of_another_generation_is_not_attached_to_this_one(server: EventServer, books: Books) -> None:
    (other,) = await add_delivered(books, 1, BORIS)
    async with server.reading(ANNA) as anna:
        hers = await books.insert(user_id=ANNA)
        payload = json.dumps({"id": hers, "event": other})
        await books.pool.execute("SELECT pg_notify('reconciler_events', $1)", payload)
        last = await books.insert(user_id=ANNA)
        await until(lambda: last in anna.rows, what="the next")
        assert anna.ids == []
