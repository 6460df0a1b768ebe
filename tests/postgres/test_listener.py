"""Notifications become wakes, the canary notices deafness, and every gap ends in a sweep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from reconciler.domain.model import Fail, Trigger
from reconciler.postgres.listener import CHANNEL, EVENTS, Listener
from reconciler.postgres.pool import Database
from testkit.standins.proxy import Proxy
from testkit.waiting import until
from tests.postgres.books import Books, insert, opened


@dataclass
class Heard:
    """What the listener told: ids, events, ends of gaps, and canaries (None: it is deaf)."""

    ids: list[str] = field(default_factory=list)
    events: list[tuple[str, int]] = field(default_factory=list)
    gaps: int = 0
    canaries: list[float | None] = field(default_factory=list)

    def gap(self) -> None:
        self.gaps += 1

    def event(self, generation_id: str, event: int) -> None:
        self.events.append((generation_id, event))

    @property
    def connected(self) -> bool:
        return bool(self.canaries) and self.canaries[-1] is not None


def handlers(heard: Heard) -> dict[str, Any]:
    """The listener's handlers that every test needs."""
    return {
        "on_generation": heard.ids.append,
        "on_connected": heard.gap,
        "on_canary": heard.canaries.append,
    }


@asynccontextmanager
async def listening(
    dsn: str, database: Database, *, every: float = 0.1, within: float = 20.0, events: bool = True
) -> AsyncIterator[Heard]:
    """Run a listener. A test of deafness sets `within`; for all others it is long enough for a slow machine."""
    heard = Heard()
    on_event = heard.event if events else None
    broken: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context.get("exception")))
    running = asyncio.create_task(
        Listener(dsn, database, **handlers(heard), on_event=on_event, every=every, within=within).run()
    )
    try:
        await until(lambda: heard.connected or running.done(), what="the first canary")
        yield heard
        assert not running.done()
        assert broken == []
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def notify(books: Books, payload: str, channel: str = CHANNEL) -> None:
    await books.pool.execute("SELECT pg_notify($1, $2)", channel, payload)


async def heard_again(books: Books, heard: Heard) -> None:
    """Wait until a new row's notification arrives."""
    generation_id = await insert(books.pool)
    await until(lambda: generation_id in heard.ids, what="a notification")


async def test_a_new_row_and_a_changed_row_wake(rows_dsn: str, books: Books) -> None:
    async with listening(rows_dsn, books.database) as heard:
        generation_id = await books.insert()
        await until(lambda: heard.ids == [generation_id], what="the insert")
        await books.change(generation_id, "status = 'generating'")
        await until(lambda: heard.ids == [generation_id] * 2, what="the change")
        await books.change(generation_id, "prompt = 'another', updated_at = now()")
        await books.change(generation_id, "task_id = 'task-2'")
        await until(lambda: len(heard.ids) >= 3, what="the new task")
        assert len(heard.ids) == 3


async def test_the_canary_comes_back_again_and_again_and_is_no_wake(rows_dsn: str, books: Books) -> None:
    async with listening(rows_dsn, books.database) as heard:
        await until(lambda: len(heard.canaries) >= 3, what="three canaries")
        assert all(seconds is not None and seconds > 0 for seconds in heard.canaries)
        assert (heard.gaps, heard.ids) == (1, [])


async def test_a_deaf_connection_is_noticed_and_rebuilt_and_the_gap_is_reported(rows_dsn: str, books: Books) -> None:
    """F1: a half-open socket stays silent for days; the canary notices it in time."""
    async with Proxy(rows_dsn) as proxy, listening(proxy.dsn, books.database, within=0.5) as heard:
        proxy.swallow()
        lost = await books.insert()
        await until(lambda: None in heard.canaries, within=3, what="the silence is noticed")
        assert lost not in heard.ids
        proxy.mend()
        await until(lambda: heard.connected and heard.gaps == 2, within=5, what="a new connection")
        await heard_again(books, heard)
        assert proxy.connections >= 2


async def test_a_connection_that_the_server_closes_is_rebuilt_at_once(rows_dsn: str, books: Books) -> None:
    async with listening(rows_dsn, books.database, every=60) as heard:
        sql = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE query LIKE 'LISTEN%' AND datname = current_database()"""
        await until(lambda: books.pool.fetchval(sql), what="the listening backend")
        await until(lambda: heard.gaps == 2 and heard.connected, within=5, what="a new connection")
        assert None in heard.canaries
        await heard_again(books, heard)


async def test_a_database_that_is_away_is_tried_again_until_it_is_back(rows_dsn: str, books: Books) -> None:
    """F2: after a restart of the database the listener subscribes again."""
    async with Proxy(rows_dsn) as proxy, listening(proxy.dsn, books.database) as heard:
        await proxy.refuse()
        await until(lambda: heard.canaries.count(None) >= 2, within=5, what="failed tries")
        proxy.mend()
        await until(lambda: heard.connected and heard.gaps == 2, within=10, what="a new connection")
        await heard_again(books, heard)


async def test_a_database_that_is_away_at_the_start_is_waited_for(rows_dsn: str, books: Books) -> None:
    heard = Heard()
    async with Proxy(rows_dsn) as proxy:
        await proxy.refuse()
        running = asyncio.create_task(
            Listener(proxy.dsn, books.database, **handlers(heard), every=0.1, within=0.5).run()
        )
        try:
            await until(lambda: heard.canaries == [None], what="the first try fails")
            proxy.mend()
            await until(lambda: heard.connected, what="a connection")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_pool_that_cannot_send_the_canary_counts_as_deaf(rows_dsn: str, books: Books) -> None:
    """A canary sent on the listening connection would come back even through a pooler that passes nothing else on."""
    async with Proxy(rows_dsn) as proxy:
        database = Database(proxy.dsn, size=1)
        async with listening(rows_dsn, database) as heard:
            await proxy.refuse()
            await until(lambda: None in heard.canaries, what="the silence is noticed")
            proxy.mend()
            await until(lambda: heard.connected, what="canaries again")
        await database.close()


async def test_the_canary_of_another_replica_proves_nothing_about_us(rows_dsn: str, books: Books) -> None:
    heard = Heard()

    class Mute(Database):
        """Sends to another database than the listener's."""

        async def execute(self, sql: str, *args: object) -> None:
            await notify(books, '{"canary": "of another replica"}')

    running = asyncio.create_task(Listener(rows_dsn, Mute(rows_dsn), **handlers(heard), every=0.05, within=0.3).run())
    try:
        await until(lambda: heard.canaries, what="the first word")
        assert heard.canaries == [None]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("turns", range(6))
async def test_it_ends_when_cancelled_while_the_canary_comes_back(rows_dsn: str, books: Books, turns: int) -> None:
    class Mute(Database):
        """Sends no canary."""

        async def execute(self, sql: str, *args: object) -> None:
            waiting.set()

    waiting = asyncio.Event()
    loop = asyncio.get_running_loop()
    listener = Listener(rows_dsn, Mute(rows_dsn), **handlers(Heard()), every=60, within=60)
    running = asyncio.create_task(listener.run())
    await waiting.wait()
    listener._canary_back.set()
    for _ in range(turns):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=10)
    assert done
    assert running.cancelled()


MALFORMED = [
    "", "no json", "[]", "7", "null", '"text"', "{}", '{"id": null}', '{"canary": "of another replica"}',
    "[" * 4000, '{"id"', '{"canary": {"deep": [1]}}',
]  # fmt: skip


@pytest.mark.parametrize("payload", MALFORMED, ids=lambda payload: payload[:12])
async def test_malformed_notifications_are_ignored(rows_dsn: str, books: Books, payload: str) -> None:
    async with listening(rows_dsn, books.database) as heard:
        await notify(books, payload)
        await heard_again(books, heard)
        assert len(heard.ids) == 1


async def test_an_id_of_any_json_type_is_passed_on_as_text(rows_dsn: str, books: Books) -> None:
    async with listening(rows_dsn, books.database) as heard:
        for said in (12, "one\x00two", {"a": 1}):
            await notify(books, json.dumps({"id": said}))
        await until(lambda: len(heard.ids) == 3, what="three wakes")
        assert heard.ids == ["12", "one\x00two", "{'a': 1}"]
        assert await books.claims().woken(dict.fromkeys(heard.ids, Trigger.NOTIFY)) == []


async def test_an_end_that_we_wrote_is_notified_with_its_event(rows_dsn: str, books: Books) -> None:
    generation_id = await books.insert()
    async with listening(rows_dsn, books.database) as heard:
        row, claim = await books.held(generation_id)
        await books.ledger().fail(row, claim, Fail("the provider refused it"))
        await until(lambda: heard.events, what="the event")
        (event,) = await books.pool.fetch("SELECT id, generation_id FROM reconciler.events")
        assert heard.events == [(event["generation_id"], event["id"])]
        await until(lambda: len(heard.canaries) >= 3, what="canaries as before")


async def test_the_channel_of_events_is_not_listened_to_without_a_handler(dsn: str) -> None:
    async with opened(dsn) as books, listening(dsn, books.database, events=False) as heard:
        await notify(books, json.dumps({"id": "one", "event": 1}), EVENTS)
        await heard_again(books, heard)
        assert (len(heard.ids), heard.events) == (1, [])
        said = await books.pool.fetch(
            # Each connection's last statement, in a database of this test's own: other tests listen on this server too.
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        assert [row["query"] for row in said] == [f'LISTEN "{CHANNEL}"']


STRANGE = ["0", "-1", "true", '"1"', "1.0", "[1]", "null", str(1 << 63), "9" * 4400]
"""Values that are no id of an event."""


@pytest.mark.parametrize(
    "payload", [*MALFORMED, *(f'{{"event": {one}, "id": "one"}}' for one in STRANGE)], ids=lambda payload: payload[:20]
)
async def test_malformed_notifications_of_events_are_ignored(rows_dsn: str, books: Books, payload: str) -> None:
    async with listening(rows_dsn, books.database) as heard:
        await notify(books, payload, EVENTS)
        await notify(books, json.dumps({"id": "two", "event": (1 << 63) - 1}), EVENTS)
        await until(lambda: heard.events, what="the next event")
        assert (heard.events, heard.ids) == ([("two", (1 << 63) - 1)], [])
