"""How streams live and end: signs of life, readers that do not read, bounds, drains, and five hundred at once."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from reconciler.http.live.hub import DEPTH, KEPT, Hub
from reconciler.http.routes.events import StreamTimes
from reconciler.postgres.pool import Database
from reconciler.postgres.reports.change_feed import ChangeFeed, GenerationChange
from testkit.standins.proxy import Proxy
from testkit.waiting import until
from tests.http.live.event_streams import ANNA, BORIS, OPERATOR, Air, door, on_air, token
from tests.postgres.books import Books, opened

NOBODY = "Bearer nobody"


class Told(ChangeFeed):
    """Makes up what happened: an id is `user/anything`, and its address as long as `length`."""

    def __init__(self, length: int = 10) -> None:
        self.address = "x" * length
        self.asked: list[Collection[tuple[str, int]]] = []

    async def of(self, heard: Collection[tuple[str, int]]) -> list[GenerationChange]:
        self.asked.append(heard)
        return [
            GenerationChange(one, one.partition("/")[0], "success", "status", self.address, None) for one, _ in heard
        ]

    async def newest(self) -> int:
        return 7


def told(air: Air) -> Told:
    return cast("Told", air.hub._happenings)


@pytest.fixture
async def books(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as found:
        yield found


@asynccontextmanager
async def made_up(times: StreamTimes | None = None, *, length: int = 10, **bounds: float) -> AsyncIterator[Air]:
    async with door(Hub(Told(length), **bounds), times) as air:  # type: ignore[arg-type]
        yield air


@asynccontextmanager
async def deaf_reader(air: Air, user_id: str) -> AsyncIterator[None]:
    """A reader that asks for a stream, and then takes no byte."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(line, ("127.0.0.1", air.port))
        said = f"GET /api/events HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {token(user_id)}\r\n\r\n"
        before = air.open
        await loop.sock_sendall(line, said.encode())
        await until(lambda: air.open == before + 1, what="the stream")
        yield


async def test_a_comment_comes_again_and_again_while_nothing_happens() -> None:
    async with made_up(StreamTimes(beat=0.05)) as air, air.reading(ANNA) as anna:
        await until(lambda: len(anna.comments) >= 3, what="signs of life")
        assert [one.event for one in anna.said] == ["hello"]


async def test_a_reader_that_goes_is_forgotten_at_once() -> None:
    async with made_up() as air:
        async with air.reading(ANNA), air.reading(BORIS):
            assert air.open == 2
        await until(lambda: air.open == 0, within=1, what="both gone")


async def test_nothing_is_looked_up_while_nobody_reads() -> None:
    async with made_up() as air:
        air.hub.wake(f"{ANNA}/early")
        air.hub.gap()
        assert not air.hub._stirred.is_set()
        async with air.reading(ANNA) as anna:
            air.hub.wake(f"{ANNA}/1")
            await until(lambda: anna.told, what="the news")
        assert told(air).asked == [[(f"{ANNA}/1", 0)]]


async def test_what_is_heard_together_is_looked_up_together_and_seldom() -> None:
    async with made_up(gather=0.2) as air, air.reading(ANNA) as anna:
        began, asked = time.monotonic(), told(air).asked
        for n in [*range(20), *range(20)]:
            air.hub.wake(f"{ANNA}/{n}")
        await until(lambda: asked, what="the first look")
        assert len(asked[0]) == 20
        for n in range(20, 80):
            air.hub.wake(f"{ANNA}/{n}")
            await air.status()
        await until(lambda: len(anna.told) == 80, what="all of them")
        assert len(asked) <= 1 + (time.monotonic() - began) / 0.2


async def test_a_reader_that_does_not_read_is_cut_and_costs_the_others_nothing() -> None:
    async with (
        made_up(StreamTimes(grace=0.1), length=200_000, gather=0.001) as air,
        air.reading(ANNA) as quick,
        air.reading(BORIS) as other,
        deaf_reader(air, ANNA),
    ):
        for n in range(4 * DEPTH):
            air.hub.wake(f"{ANNA}/{n}")
            await until(lambda: len(quick.told) > n or air.open == 2, what="what the quick reader is told")  # noqa: B023
            if air.open == 2:
                break
        await until(lambda: air.open == 2, within=1, what="the cut")
        air.hub.wake(f"{ANNA}/last")
        air.hub.wake(f"{BORIS}/last")
        await until(lambda: quick.told[-1]["id"] == f"{ANNA}/last" and other.told, what="the last news")
        assert (quick.ended, other.ended) == (False, False)


async def test_a_user_may_have_so_many_streams_and_the_operator_as_many_as_there_are() -> None:
    async with made_up(each=2, most=5) as air, AsyncExitStack() as stack:
        for user_id in (ANNA, ANNA, None, None):
            await stack.enter_async_context(air.reading(user_id))
        assert await air.status(Authorization=f"Bearer {token(ANNA)}") == 429
        boris = air.reading(BORIS)
        await boris.__aenter__()
        async with air.session.get(air.address, headers={"Authorization": f"Bearer {token(BORIS)}"}) as full:
            assert (full.status, full.headers["Retry-After"]) == (503, "10")
            assert (await full.json(content_type=None))["error"] == "unavailable"
        await boris.__aexit__(None, None, None)
        await until(lambda: air.open == 4, what="the place of who has gone")
        async with air.reading(BORIS) as again:
            assert again.said[0].event == "hello"


async def test_the_description_of_the_api_tells_of_a_stream() -> None:
    async with made_up() as air, air.session.get(air.address.replace("/api/events", "/openapi.json")) as answer:
        asked = (await answer.json())["paths"]["/api/events"]["get"]
    assert list(asked["responses"]["200"]["content"]) == ["text/event-stream"]
    assert {"401", "429", "503"} <= asked["responses"].keys()
    assert [(one["name"], one["in"], one["required"]) for one in asked["parameters"]] == [
        ("Last-Event-ID", "header", False)
    ]


async def test_without_a_token_that_holds_there_is_no_stream() -> None:
    async with made_up() as air:
        assert await air.status() == 401
        assert await air.status(Authorization=NOBODY) == 401
        async with air.session.get(air.address, params={"token": OPERATOR}) as answer:
            assert answer.status == 401
        assert air.open == 0


async def test_a_drain_says_goodbye_at_once_and_lets_nobody_in() -> None:
    async with made_up() as air, air.reading(ANNA) as anna, air.reading() as operator, deaf_reader(air, BORIS):
        air.hub.wake(f"{ANNA}/1")
        air.hub.close()
        await until(lambda: anna.ended and operator.ended, within=1, what="the end")
        assert (anna.said[-1].event, anna.said[-1].retry) == ("bye", "2000")
        assert await air.status(Authorization=f"Bearer {OPERATOR}") == 503


async def test_a_stream_ends_by_itself_because_tokens_do() -> None:
    async with made_up(StreamTimes(life=0.2)) as air, air.reading(ANNA) as anna:
        await until(lambda: anna.ended, what="the end")
        assert anna.said[-1].event == "bye"
        assert air.open == 0


async def test_a_gap_in_hearing_calls_everybody_to_fetch_the_list_but_not_too_often() -> None:
    async with made_up() as air, air.reading(ANNA) as anna, air.reading() as operator:
        for _ in range(3):
            air.hub.gap()
        await until(lambda: anna.of("resync") and operator.of("resync"), what="the call")
        air.hub.gap()
        air.hub.wake(f"{ANNA}/1")
        await until(lambda: anna.told, what="the news")
        assert len(anna.of("resync")) == 1


async def test_more_than_can_be_kept_becomes_a_call_to_fetch_the_list() -> None:
    async with made_up() as air, air.reading(ANNA) as anna:
        for n in range(KEPT + 1):
            air.hub.wake(f"{BORIS}/{n}")
        assert len(air.hub._heard) <= KEPT
        await until(lambda: anna.of("resync"), what="the call")


async def test_five_hundred_streams_cost_no_connection_of_the_database_and_no_statement(
    rows_dsn: str, books: Books
) -> None:
    users = [str(uuid.uuid4()) for _ in range(25)]
    connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with on_air(books, rows_dsn) as air, AsyncExitStack() as stack:
        opening = [stack.enter_async_context(air.reading(user_id)) for user_id in users for _ in range(20)]
        readers = await asyncio.gather(*opening)
        assert (air.open, {reader.status for reader in readers}) == (500, {200})
        # Five of the pool, one that listens, and those of this test: none more for 500 streams.
        assert await books.pool.fetchval(connections) <= 5 + 1 + 5
        happenings = air.hub._happenings
        asked, look = [], happenings.of

        async def of(heard: Collection[tuple[str, int]]) -> list[GenerationChange]:
            asked.append(heard)
            return await look(heard)

        happenings.of = of  # type: ignore[method-assign]
        ids = [await books.insert(user_id=user_id) for user_id in users]
        await until(lambda: all(reader.told for reader in readers), within=5, what="each reader's own row")
        heard = [{one["id"] for one in reader.told} for reader in readers]
        assert heard == [{generation_id} for generation_id in ids for _ in range(20)]
        assert len(asked) <= len(ids)


async def test_a_database_that_is_away_ends_no_stream_and_loses_no_news(rows_dsn: str, books: Books) -> None:
    async with Proxy(rows_dsn) as proxy:
        database = Database(proxy.dsn, size=2)
        hub = Hub(ChangeFeed(database, books.table), gather=0.01)
        async with door(hub, StreamTimes(beat=0.05)) as air, air.reading(ANNA) as anna:
            await proxy.refuse()
            generation_id = await books.insert(user_id=ANNA)
            hub.wake(generation_id)
            beats = len(anna.comments)
            await until(lambda: hub._away and len(anna.comments) > beats + 2, what="signs of life")
            assert await air.status(Authorization=f"Bearer {token(ANNA)}") == 503
            assert air.open == 1
            proxy.mend()
            await until(lambda: anna.told, what="the news")
            assert (anna.told[0]["id"], anna.ended) == (generation_id, False)
        await database.close()
