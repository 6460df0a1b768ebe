"""How streams live and end: keep-alive comments, slow readers, limits, drains, and five hundred at once."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from reconciler.http.auth import Caller
from reconciler.http.live.event_stream import MAX_WAITING, StreamTimes
from reconciler.http.live.hub import MAX_NOTIFICATIONS, Hub
from reconciler.postgres.pool import Database
from reconciler.postgres.reports.change_feed import LONGEST_ADDRESS, ChangeFeed, GenerationChange
from testkit.loop_watch import assert_loop_turns
from testkit.standins.proxy import Proxy
from testkit.waiting import until
from tests.http.live.event_streams import (
    ANNA,
    BORIS,
    OPERATOR,
    EventServer,
    event_server,
    listening_server,
    reading,
    token,
)
from tests.postgres.books import Books, opened

INVALID = "Bearer nobody"


class FakeChangeFeed(ChangeFeed):
    """Invents changes: an id is `user/anything`, and its address has `length` characters."""

    def __init__(self, length: int = 10) -> None:
        self.address = "x" * length
        self.calls: list[Collection[tuple[str, int]]] = []

    async def of(self, notified: Collection[tuple[str, int]]) -> list[GenerationChange]:
        self.calls.append(notified)
        return [
            GenerationChange(one, one.partition("/")[0], "success", "status", self.address, None) for one, _ in notified
        ]

    async def newest(self) -> int:
        return 7


def feed(server: EventServer) -> FakeChangeFeed:
    return cast("FakeChangeFeed", server.hub._changes)


@pytest.fixture
async def books(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as connected:
        yield connected


@asynccontextmanager
async def fake_server(
    times: StreamTimes | None = None, *, length: int = 10, **bounds: float
) -> AsyncIterator[EventServer]:
    async with event_server(Hub(FakeChangeFeed(length), **bounds), times) as server:  # type: ignore[arg-type]
        yield server


@asynccontextmanager
async def stalled_reader(server: EventServer, user_id: str) -> AsyncIterator[None]:
    """Open a stream and read nothing from it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", server.port))
        request = f"GET /api/events HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {token(user_id)}\r\n\r\n"
        before = server.open
        await loop.sock_sendall(connection, request.encode())
        await until(lambda: server.open == before + 1, what="the stream")
        yield


async def test_n9_a_stream_outlives_no_token_and_goes_on_with_a_new_one() -> None:
    """A stream outlives its token."""
    async with fake_server() as server:
        expiring = token(ANNA, seconds=3)
        async with reading(server.session, server.address, expiring) as anna, server.reading(ANNA) as other:
            await until(lambda: anna.ended, what="the end of the stream")
            assert [event.event for event in anna.events] == ["hello", "bye"]
            assert await server.status(Authorization=f"Bearer {expiring}") == 401
            async with reading(server.session, server.address, token(ANNA)) as again:
                server.hub.wake(f"{ANNA}/one")
                await until(lambda: again.changes and other.changes, what="the change")
            assert (anna.changes, other.ended) == ([], False)


async def test_n9_a_stream_ends_with_its_token_where_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_server(StreamTimes(keep_alive=0.05)) as server, server.reading(ANNA) as anna:
        now = time.time()
        monkeypatch.setattr("reconciler.http.live.event_stream.time.time", lambda: now + 601)
        await until(lambda: anna.ended, what="the end of the stream")
        assert anna.events[-1].event == "bye"


async def test_a_stream_of_the_operator_has_no_end_of_its_own() -> None:
    async with fake_server(StreamTimes(keep_alive=0.05)) as server, server.reading() as operator:
        await until(lambda: len(operator.comments) >= 3, what="keep-alive comments")
        assert not operator.ended


async def test_keep_alive_comments_come_while_nothing_happens() -> None:
    async with fake_server(StreamTimes(keep_alive=0.05)) as server, server.reading(ANNA) as anna:
        await until(lambda: len(anna.comments) >= 3, what="keep-alive comments")
        assert [one.event for one in anna.events] == ["hello"]


async def test_a_reader_that_disconnects_leaves_the_hub_at_once() -> None:
    async with fake_server() as server:
        async with server.reading(ANNA), server.reading(BORIS):
            assert server.open == 2
        await until(lambda: server.open == 0, within=1, what="both gone")


async def test_nothing_is_looked_up_without_a_reader() -> None:
    async with fake_server() as server:
        server.hub.wake(f"{ANNA}/early")
        server.hub.gap()
        assert not server.hub._woken.is_set()
        async with server.reading(ANNA) as anna:
            server.hub.wake(f"{ANNA}/1")
            await until(lambda: anna.changes, what="the event")
        assert feed(server).calls == [[(f"{ANNA}/1", 0)]]


async def test_notifications_are_looked_up_in_batches_at_bounded_intervals() -> None:
    async with fake_server(gather=0.2) as server, server.reading(ANNA) as anna:
        began, calls = time.monotonic(), feed(server).calls
        for n in [*range(20), *range(20)]:
            server.hub.wake(f"{ANNA}/{n}")
        await until(lambda: calls, what="the first look")
        assert len(calls[0]) == 20
        for n in range(20, 80):
            server.hub.wake(f"{ANNA}/{n}")
            await server.status()
        await until(lambda: len(anna.changes) == 80, what="all of them")
        assert len(calls) <= 1 + (time.monotonic() - began) / 0.2


async def test_a_reader_that_does_not_read_is_disconnected_and_delays_no_other() -> None:
    async with (
        fake_server(StreamTimes(grace=0.1), length=200_000, gather=0.001) as server,
        server.reading(ANNA) as quick,
        server.reading(BORIS) as other,
        stalled_reader(server, ANNA),
    ):
        for n in range(4 * MAX_WAITING):
            server.hub.wake(f"{ANNA}/{n}")
            await until(lambda: len(quick.changes) > n or server.open == 2, what="the quick reader's event")  # noqa: B023
            if server.open == 2:
                break
        await until(lambda: server.open == 2, within=1, what="the disconnection")
        server.hub.wake(f"{ANNA}/last")
        server.hub.wake(f"{BORIS}/last")
        await until(lambda: quick.changes[-1]["id"] == f"{ANNA}/last" and other.changes, what="the last events")
        assert (quick.ended, other.ended) == (False, False)


async def test_streams_are_limited_for_a_user_and_in_total() -> None:
    async with fake_server(each=2, most=5) as server, AsyncExitStack() as stack:
        for user_id in (ANNA, ANNA, None, None):
            await stack.enter_async_context(server.reading(user_id))
        assert await server.status(Authorization=f"Bearer {token(ANNA)}") == 429
        boris = server.reading(BORIS)
        await boris.__aenter__()
        async with server.session.get(server.address, headers={"Authorization": f"Bearer {token(BORIS)}"}) as full:
            assert (full.status, full.headers["Retry-After"]) == (503, "10")
            assert (await full.json(content_type=None))["error"] == "unavailable"
        await boris.__aexit__(None, None, None)
        await until(lambda: server.open == 4, what="a free place")
        async with server.reading(BORIS) as again:
            assert again.events[0].event == "hello"


async def test_the_description_of_the_api_names_the_event_stream() -> None:
    async with (
        fake_server() as server,
        server.session.get(server.address.replace("/api/events", "/openapi.json")) as answer,
    ):
        operation = (await answer.json())["paths"]["/api/events"]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["text/event-stream"]
    assert {"401", "429", "503"} <= operation["responses"].keys()
    assert [(one["name"], one["in"], one["required"]) for one in operation["parameters"]] == [
        ("Last-Event-ID", "header", False)
    ]


async def test_without_a_valid_token_there_is_no_stream() -> None:
    async with fake_server() as server:
        assert await server.status() == 401
        assert await server.status(Authorization=INVALID) == 401
        async with server.session.get(server.address, params={"token": OPERATOR}) as answer:
            assert answer.status == 401
        assert server.open == 0


async def test_a_drain_ends_every_stream_at_once_and_refuses_new_ones() -> None:
    async with (
        fake_server() as server,
        server.reading(ANNA) as anna,
        server.reading() as operator,
        stalled_reader(server, BORIS),
    ):
        server.hub.wake(f"{ANNA}/1")
        server.hub.close()
        await until(lambda: anna.ended and operator.ended, within=1, what="the end")
        assert (anna.events[-1].event, anna.events[-1].retry) == ("bye", "2000")
        assert await server.status(Authorization=f"Bearer {OPERATOR}") == 503


async def test_a_stream_ends_by_itself_because_tokens_expire() -> None:
    async with fake_server(StreamTimes(life=0.2)) as server, server.reading(ANNA) as anna:
        await until(lambda: anna.ended, what="the end")
        assert anna.events[-1].event == "bye"
        assert server.open == 0


async def test_missed_notifications_cause_a_resync_at_bounded_intervals() -> None:
    async with fake_server() as server, server.reading(ANNA) as anna, server.reading() as operator:
        for _ in range(3):
            server.hub.gap()
        await until(lambda: anna.of("resync") and operator.of("resync"), what="the resync")
        server.hub.gap()
        server.hub.wake(f"{ANNA}/1")
        await until(lambda: anna.changes, what="the event")
        assert len(anna.of("resync")) == 1


async def test_too_many_notifications_cause_a_resync() -> None:
    async with fake_server() as server, server.reading(ANNA) as anna:
        for n in range(MAX_NOTIFICATIONS + 1):
            server.hub.wake(f"{BORIS}/{n}")
        assert len(server.hub._notified) <= MAX_NOTIFICATIONS
        await until(lambda: anna.of("resync"), what="the resync")


async def test_five_hundred_streams_need_no_database_connection_and_no_query(rows_dsn: str, books: Books) -> None:
    users = [str(uuid.uuid4()) for _ in range(25)]
    connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with listening_server(books, rows_dsn) as server, AsyncExitStack() as stack:
        opening = [stack.enter_async_context(server.reading(user_id)) for user_id in users for _ in range(20)]
        readers = await asyncio.gather(*opening)
        assert (server.open, {reader.status for reader in readers}) == (500, {200})
        # Five of the pool, one of the listener, and those of this test: none for the 500 streams.
        assert await books.pool.fetchval(connections) <= 5 + 1 + 5
        changes = server.hub._changes
        calls, look_up = [], changes.of

        async def of(notified: Collection[tuple[str, int]]) -> list[GenerationChange]:
            calls.append(notified)
            return await look_up(notified)

        changes.of = of  # type: ignore[method-assign]
        ids = [await books.insert(user_id=user_id) for user_id in users]
        await until(lambda: all(reader.changes for reader in readers), within=5, what="each reader's own row")
        seen = [{one["id"] for one in reader.changes} for reader in readers]
        assert seen == [{generation_id} for generation_id in ids for _ in range(20)]
        assert len(calls) <= len(ids)


async def test_while_the_database_is_away_no_stream_ends_and_no_change_is_lost(rows_dsn: str, books: Books) -> None:
    async with Proxy(rows_dsn) as proxy:
        database = Database(proxy.dsn, size=2)
        hub = Hub(ChangeFeed(database, books.table), gather=0.01)
        async with event_server(hub, StreamTimes(keep_alive=0.05)) as server, server.reading(ANNA) as anna:
            await proxy.refuse()
            generation_id = await books.insert(user_id=ANNA)
            hub.wake(generation_id)
            comments = len(anna.comments)
            await until(lambda: hub._database_away and len(anna.comments) > comments + 2, what="keep-alive comments")
            assert await server.status(Authorization=f"Bearer {token(ANNA)}") == 503
            assert server.open == 1
            proxy.mend()
            await until(lambda: anna.changes, what="the event")
            assert (anna.changes[0]["id"], anna.ended) == (generation_id, False)
        await database.close()


async def test_n7_the_loop_turns_while_a_thousand_changes_reach_a_thousand_streams() -> None:
    hub = Hub(FakeChangeFeed(length=LONGEST_ADDRESS), most=2000)
    streams = [hub.join(Caller(f"user-{n}")) for n in range(1000)]
    operator = hub.join(Caller(None))

    async def send() -> None:
        for n in range(1000):
            hub.wake(f"user-{n}/one")
        await hub._send_batch()
        for stream in (*streams, operator):
            assert (await stream.take()).startswith(b"event: generation")

    await assert_loop_turns(send, "a thousand changes")
