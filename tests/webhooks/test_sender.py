"""When webhooks are sent: several at once, in order within a generation, and again after a failure."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from reconciler.bootstrap import Parts, webhook_sender
from reconciler.bootstrap.http import route_services
from reconciler.bootstrap.periodic import listener, periodic_tasks
from reconciler.postgres.clock import ClockMark
from reconciler.postgres.outbox import OutboxEvent
from reconciler.webhooks.sender import CONCURRENCY, LONGEST_PAUSE, WebhookSender, pause
from testkit.standins.receiver import SECRET, Heard, Receiver, never
from testkit.waiting import until
from tests.postgres.books import Books
from tests.worker.rig import Rig

REVIVE = "UPDATE reconciler.events SET dead_at = NULL, tries = 0, next_at = NULL WHERE dead_at IS NOT NULL"
"""The statement of docs/OPERATIONS.md that sends dead events again."""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


@asynccontextmanager
async def sending(rig: Rig, receiver: Receiver) -> AsyncIterator[tuple[WebhookSender, Parts]]:
    """A sender with its own instance, without the daemon's loops."""
    changes = {"RECONCILER_NOTIFY_URL": receiver.url, "RECONCILER_NOTIFY_SECRET": SECRET}
    async with rig.instance(**changes) as parts, webhook_sender(parts) as sender:
        assert sender is not None
        # As a heartbeat does beside another daemon: events are given up for their age by a clock that is trusted.
        now = await rig.pool.fetchval("SELECT now()")
        parts.ledger.clock.observe(now, asked_at=parts.ledger.clock.uptime, mark=ClockMark(steady_at=now))
        yield sender, parts
        await sender.drain(0)


async def add(books: Books, *generations: str, kind: str = "succeeded") -> None:
    await books.pool.executemany(
        "INSERT INTO reconciler.events (key, generation_id, kind, payload)"
        " SELECT $1 || '|' || $2 || '|' || count(*), $1, $2, $3 FROM reconciler.events",
        [(name, kind, json.dumps({"generation_id": name, "task_id": None})) for name in generations],
    )


async def events(books: Books) -> list[Any]:
    rows: list[Any] = await books.pool.fetch(
        "SELECT *, extract(epoch FROM next_at - now())::float8 AS left FROM reconciler.events ORDER BY id"
    )
    return rows


async def all_sent(books: Books) -> bool:
    return all(event["announced_at"] for event in await events(books))


async def make_due(books: Books) -> None:
    """Make every unsent event due now."""
    await books.pool.execute("UPDATE reconciler.events SET next_at = NULL WHERE announced_at IS NULL")


def counted(parts: Parts) -> dict[str, float]:
    return {result: parts.metrics.announcements.labels(result)._value.get() for result in ("told", "again", "dead")}


async def test_one_call_sends_a_whole_backlog_in_order_and_several_at_once(rig: Rig, receiver: Receiver) -> None:
    for kind in ("gave_up", "recovered", "failed"):
        await add(rig.books, *(f"g{n}" for n in range(20)), kind=kind)
    together = asyncio.Barrier(2)

    async def answer(request: Heard) -> int:
        if request.kind == "generation.gave_up":
            await together.wait()
        return 200

    receiver.answer = answer
    async with sending(rig, receiver) as (sender, parts):
        with capture_logs() as lines:
            await sender.send_due()
            await until(lambda: counted(parts)["told"] == 60, what="everything sent")
            await until(lambda: not sender._tasks)
        assert counted(parts) == {"told": 60, "again": 0, "dead": 0}
    assert len({request.id for request in receiver.heard}) == len(receiver.heard) == 60
    for n in range(20):
        kinds = ["generation.gave_up", "generation.recovered", "generation.failed"]
        assert [request.kind for request in receiver.of(f"g{n}")] == kinds
    assert 1 < receiver.most_at_once <= CONCURRENCY
    assert receiver.forged == 0
    assert sum(line["event"] == "event.announced" for line in lines) == 60


async def test_a_slow_receiver_gets_a_bounded_number_at_once_and_send_due_does_not_wait(
    rig: Rig, receiver: Receiver
) -> None:
    await add(rig.books, *(f"g{n}" for n in range(30)))
    receiver.answer = never
    async with sending(rig, receiver) as (sender, _):
        for _ in range(3):
            await asyncio.wait_for(sender.send_due(), 2)
        await until(lambda: receiver.at_once == CONCURRENCY, what="as many requests as are allowed at once")
        await asyncio.wait_for(sender.send_due(), 2)
        assert receiver.most_at_once == CONCURRENCY


async def test_a_failing_receiver_gets_one_event_at_a_time_until_it_accepts_one(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, *(f"g{n}" for n in range(30)))
    receiver.answer = lambda _: 500
    async with sending(rig, receiver) as (sender, parts):
        await sender.send_due()
        await until(lambda: counted(parts)["again"] == CONCURRENCY, what="the first tries")
        await sender.send_due()
        await until(lambda: counted(parts)["again"] == CONCURRENCY + 1, what="one more try")
        await until(lambda: not sender._tasks, what="no request is running")
        assert len(receiver.heard) == CONCURRENCY + 1
        receiver.answer = lambda _: 204
        await make_due(rig.books)
        await sender.send_due()
        await until(lambda: counted(parts)["told"] == 30, what="everything sent after one call")
        assert counted(parts) == {"told": 30, "again": CONCURRENCY + 1, "dead": 0}
    ids = [{request.id for request in receiver.heard if request.generation_id == f"g{n}"} for n in range(30)]
    assert all(len(one) == 1 for one in ids), "a repetition had another id"


async def test_a_refused_event_is_tried_later_and_its_reason_is_recorded(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    await rig.pool.execute("UPDATE reconciler.events SET tries = 4")
    receiver.answer = lambda _: 404
    async with sending(rig, receiver) as (sender, parts):
        with capture_logs() as lines:
            await sender.send_due()
            await until(lambda: counted(parts)["again"] == 1)
    (event,) = await events(rig.books)
    assert (event["trouble"], event["tries"], event["dead_at"]) == ("http_404", 5, None)
    assert 2 * 2**4 * 2 / 3 - 5 < event["left"] <= 2 * 2**4
    (line,) = [line for line in lines if line["event"] == "event.not_announced"]
    assert (line["generation_id"], line["reason"], line["tries"]) == ("g", "http_404", 5)


async def test_no_event_is_sent_to_a_busy_receiver_before_its_retry_after(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "first")
    receiver.answer, receiver.headers = lambda _: 429, {"Retry-After": "120"}
    async with sending(rig, receiver) as (sender, parts):
        await sender.send_due()
        await until(lambda: counted(parts)["again"] == 1)
        await add(rig.books, "second")
        await sender.send_due()
        assert sender._tasks == set()
        first, second = await events(rig.books)
    assert 110 < first["left"] <= 120
    assert second["tries"] == 0


async def test_a_retry_after_of_a_year_is_followed_for_an_hour(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    receiver.answer, receiver.headers = lambda _: 503, {"Retry-After": "31536000"}
    async with sending(rig, receiver) as (sender, parts):
        await sender.send_due()
        await until(lambda: counted(parts)["again"] == 1)
    assert (await events(rig.books))[0]["left"] == pytest.approx(3600, abs=10)


@pytest.mark.parametrize(("status", "age"), [(410, "0 s"), (503, "3 days 1 s")])
async def test_a_dead_event_is_kept_counted_and_logged_and_the_next_of_its_generation_is_sent(
    rig: Rig, receiver: Receiver, status: int, age: str
) -> None:
    await add(rig.books, "g")
    await rig.pool.execute("UPDATE reconciler.events SET at = now() - $1::text::interval, tries = 9", age)
    await add(rig.books, "g", kind="recovered")
    receiver.answer = lambda request: status if request.kind == "generation.succeeded" else 200
    async with sending(rig, receiver) as (sender, parts):
        with capture_logs() as lines:
            await sender.send_due()
            await until(lambda: counted(parts)["dead"] == 1)
            await until(lambda: not sender._tasks)
            await sender.send_due()
            await until(lambda: counted(parts)["told"] == 1, what="the next event")
        assert counted(parts) == {"told": 1, "again": 0, "dead": 1}
    dead, sent = await events(rig.books)
    assert dead["dead_at"] is not None
    assert dead["trouble"] == f"http_{status}"
    assert sent["announced_at"] is not None
    assert [line["log_level"] for line in lines if line["event"] == "event.dead"] == ["warning"]


async def test_a_dead_event_that_the_operator_revives_is_tried_more_than_once(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    await rig.pool.execute("UPDATE reconciler.events SET at = now() - interval '9 days', tries = 99, dead_at = now()")
    receiver.answer = lambda _: 503
    async with sending(rig, receiver) as (sender, parts):
        await sender.send_due()
        assert not sender._tasks
        await rig.pool.execute(REVIVE)
        await sender.send_due()
        await until(lambda: counted(parts)["again"] == 1, what="a failed try")
        await until(lambda: not sender._tasks)
        receiver.answer = lambda _: 200
        await make_due(rig.books)
        await sender.send_due()
        await until(lambda: all_sent(rig.books))


async def test_one_event_that_is_always_refused_does_not_delay_the_others(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, *(f"g{n}" for n in range(40)))
    receiver.answer = lambda request: 422 if request.generation_id == "g0" else 200
    async with sending(rig, receiver) as (sender, parts):

        async def others_sent() -> bool:
            await sender.send_due()
            return counted(parts)["told"] == 39

        await until(others_sent, what="all but one")
    assert [event["announced_at"] is None for event in await events(rig.books)] == [True] + [False] * 39


async def test_a_drain_lets_running_requests_finish_and_starts_none(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, *(f"g{n}" for n in range(CONCURRENCY + 4)))
    may_answer = asyncio.Event()

    async def answer(_: Heard) -> int:
        await may_answer.wait()
        return 200

    receiver.answer = answer
    async with sending(rig, receiver) as (sender, _):
        await sender.send_due()
        await until(lambda: receiver.at_once == CONCURRENCY)
        draining = asyncio.create_task(sender.drain(10))
        await until(lambda: sender._draining)
        may_answer.set()
        await draining
        await sender.send_due()
        sender.wake()
        await until(lambda: not sender._tasks)
    rows = await events(rig.books)
    assert sum(event["announced_at"] is not None for event in rows) == CONCURRENCY
    assert [event["tries"] for event in rows if event["announced_at"] is None] == [0] * 4
    assert len(receiver.heard) == CONCURRENCY


async def test_an_event_that_is_claimed_while_a_drain_begins_is_released(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    async with sending(rig, receiver) as (sender, _):
        take = sender._outbox.take

        async def drain_after_claim(count: int) -> list[OutboxEvent]:
            claimed = await take(count)
            await sender.drain(0)
            return claimed

        sender._outbox.take = drain_after_claim  # type: ignore[method-assign]
        await sender.send_due()
        (event,) = await events(rig.books)
        assert (event["tries"], event["next_at"]) == (1, None)
        assert not sender._tasks
    assert receiver.heard == []


async def test_a_drain_releases_the_events_that_got_no_answer_in_time(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, *(f"g{n}" for n in range(3)))
    receiver.answer = never
    async with sending(rig, receiver) as (sender, _):
        await sender.send_due()
        await until(lambda: receiver.at_once == 3)
        await asyncio.wait_for(sender.drain(0.1), 5)
        assert [event["next_at"] for event in await events(rig.books)] == [None] * 3


async def test_a_process_that_was_suspended_does_not_send_its_claimed_event(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    async with sending(rig, receiver) as (sender, _):
        (event,) = await sender._outbox.take(1)
        resumed_at = time.monotonic()
        assert not await sender._deliver(event, resumed_at - 31)
        assert receiver.heard == []
        assert await sender._deliver(event, resumed_at - 29)


async def test_an_event_whose_outcome_was_not_recorded_is_sent_again_with_its_id(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    async with sending(rig, receiver) as (sender, parts), rig.pool.acquire() as other:

        async def answer(_: Heard) -> int:
            # The statement that records the outcome now finds a closed connection.
            await parts.database._pool.close()  # type: ignore[union-attr]
            return 200

        receiver.answer = answer
        with capture_logs() as lines:
            await sender.send_due()
            await until(lambda: not sender._tasks, what="the first request")
        assert [line["event"] for line in lines] == ["event.not_marked"]
        assert await other.fetchval("SELECT announced_at FROM reconciler.events") is None
        receiver.answer = lambda _: 200
        await parts.database._reopen()
        await make_due(rig.books)
        await sender.send_due()
        await until(lambda: all_sent(rig.books))
    assert len(receiver.taken) == 2
    assert len({request.id for request in receiver.heard}) == 1


async def test_the_periodic_task_and_notifications_send_due_events(rig: Rig, receiver: Receiver) -> None:
    async with sending(rig, receiver) as (sender, parts):
        periodic = periodic_tasks(parts, sender)
        await add(rig.books, "notified")
        listener(parts, periodic, route_services(parts).hub, sender).on_event("notified", 1)
        await until(lambda: receiver.of("notified"), within=2)
        periodic.scheduler.start()
        try:
            await add(rig.books, "not notified")
            await until(lambda: receiver.of("not notified"), within=4)
        finally:
            periodic.scheduler.stop()


async def test_there_is_no_sender_without_an_address_or_while_observing(rig: Rig, receiver: Receiver) -> None:
    async with rig.instance() as parts, webhook_sender(parts) as sender:
        assert sender is None
    changes = {"RECONCILER_NOTIFY_URL": receiver.url, "RECONCILER_NOTIFY_SECRET": SECRET}
    async with rig.instance(observe=True, **changes) as parts, webhook_sender(parts) as sender:
        assert sender is None


def test_pauses_double_up_to_a_bound_and_are_shortened_by_jitter() -> None:
    assert [pause(tries, 0) for tries in (1, 2, 3)] == [2, 4, 8]
    assert pause(40, 0) == pause(400_000, 0) == LONGEST_PAUSE
    assert [round(pause(3, jitter), 3) for jitter in (0.3, 0.6, 0.9)] == [7.2, 6.4, 5.6]
