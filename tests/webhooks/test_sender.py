"""When events are told: several at once, in order within a generation, again after trouble, and never twice at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from reconciler.bootstrap import Parts, announcer
from reconciler.bootstrap.http import route_services
from reconciler.bootstrap.periodic import listener, periodic_tasks
from reconciler.postgres.outbox import OutboxEvent
from reconciler.webhooks.sender import BREADTH, LONGEST_PAUSE, WebhookSender, _Held, pause
from testkit.standins.receiver import SECRET, Heard, Receiver, never
from testkit.waiting import until
from tests.postgres.books import Books
from tests.worker.rig import Rig

AGAIN = "UPDATE reconciler.events SET dead_at = NULL, tries = 0, next_at = NULL WHERE dead_at IS NOT NULL"
"""As the page for operators has it."""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


@asynccontextmanager
async def telling(rig: Rig, receiver: Receiver) -> AsyncIterator[tuple[WebhookSender, Parts]]:
    """The announcer of an instance of its own; nothing runs by itself."""
    changes = {"RECONCILER_NOTIFY_URL": receiver.url, "RECONCILER_NOTIFY_SECRET": SECRET}
    async with rig.instance(**changes) as parts, announcer(parts) as made:
        assert made is not None
        yield made, parts
        await made.drain(0)


async def add(books: Books, *generations: str, kind: str = "succeeded") -> None:
    await books.pool.executemany(
        "INSERT INTO reconciler.events (key, generation_id, kind, payload)"
        " SELECT $1 || '|' || $2 || '|' || count(*), $1, $2, $3 FROM reconciler.events",
        [(name, kind, json.dumps({"generation_id": name, "task_id": None})) for name in generations],
    )


async def events(books: Books) -> list[Any]:
    found: list[Any] = await books.pool.fetch(
        "SELECT *, extract(epoch FROM next_at - now())::float8 AS left FROM reconciler.events ORDER BY id"
    )
    return found


async def all_told(books: Books) -> bool:
    return all(event["announced_at"] for event in await events(books))


async def due(books: Books) -> None:
    """Let every pause be over."""
    await books.pool.execute("UPDATE reconciler.events SET next_at = NULL WHERE announced_at IS NULL")


def counted(parts: Parts) -> dict[str, float]:
    return {one: parts.metrics.announcements.labels(one)._value.get() for one in ("told", "again", "dead")}


async def test_one_look_tells_a_whole_backlog_in_order_several_at_once(rig: Rig, receiver: Receiver) -> None:
    for kind in ("gave_up", "recovered", "failed"):
        await add(rig.books, *(f"g{n}" for n in range(20)), kind=kind)
    together = asyncio.Barrier(2)

    async def answer(heard: Heard) -> int:
        if heard.kind == "generation.gave_up":
            await together.wait()
        return 200

    receiver.answer = answer
    async with telling(rig, receiver) as (made, parts):
        with capture_logs() as lines:
            await made.look()
            await until(lambda: counted(parts)["told"] == 60, what="everything told")
            await until(lambda: not made._tasks)
        assert counted(parts) == {"told": 60, "again": 0, "dead": 0}
    assert len({one.id for one in receiver.heard}) == len(receiver.heard) == 60
    for n in range(20):
        kinds = ["generation.gave_up", "generation.recovered", "generation.failed"]
        assert [one.kind for one in receiver.of(f"g{n}")] == kinds
    assert 1 < receiver.most_at_once <= BREADTH
    assert receiver.forged == 0
    assert sum(line["event"] == "event.announced" for line in lines) == 60


async def test_a_slow_receiver_gets_no_more_than_a_few_at_once_and_a_look_does_not_wait(
    rig: Rig, receiver: Receiver
) -> None:
    await add(rig.books, *(f"g{n}" for n in range(30)))
    receiver.answer = never
    async with telling(rig, receiver) as (made, _):
        for _ in range(3):
            await asyncio.wait_for(made.look(), 2)
        await until(lambda: receiver.at_once == BREADTH, what="as many as there is room for")
        await asyncio.wait_for(made.look(), 2)
        assert receiver.most_at_once == BREADTH


async def test_in_trouble_one_at_a_time_is_tried_and_all_at_once_when_it_is_over(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, *(f"g{n}" for n in range(30)))
    receiver.answer = lambda _: 500
    async with telling(rig, receiver) as (made, parts):
        await made.look()
        await until(lambda: counted(parts)["again"] == BREADTH, what="the first tries")
        await made.look()
        await until(lambda: counted(parts)["again"] == BREADTH + 1, what="one more try")
        await until(lambda: not made._tasks, what="nothing under way")
        assert len(receiver.heard) == BREADTH + 1
        receiver.answer = lambda _: 204
        await due(rig.books)
        await made.look()
        await until(lambda: counted(parts)["told"] == 30, what="everything told after one look")
        assert counted(parts) == {"told": 30, "again": BREADTH + 1, "dead": 0}
    ids = [{one.id for one in receiver.heard if one.generation_id == f"g{n}"} for n in range(30)]
    assert all(len(one) == 1 for one in ids), "a repetition had another id"


async def test_what_was_not_taken_is_tried_later_and_says_why(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    await rig.pool.execute("UPDATE reconciler.events SET tries = 4")
    receiver.answer = lambda _: 404
    async with telling(rig, receiver) as (made, parts):
        with capture_logs() as lines:
            await made.look()
            await until(lambda: counted(parts)["again"] == 1)
    (event,) = await events(rig.books)
    assert (event["trouble"], event["tries"], event["dead_at"]) == ("http_404", 5, None)
    assert 2 * 2**4 * 2 / 3 - 5 < event["left"] <= 2 * 2**4
    (line,) = [line for line in lines if line["event"] == "event.not_announced"]
    assert (line["generation_id"], line["reason"], line["tries"]) == ("g", "http_404", 5)


async def test_a_busy_receiver_is_left_alone_for_as_long_as_it_asks(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "first")
    receiver.answer, receiver.headers = lambda _: 429, {"Retry-After": "120"}
    async with telling(rig, receiver) as (made, parts):
        await made.look()
        await until(lambda: counted(parts)["again"] == 1)
        await add(rig.books, "second")
        await made.look()
        assert made._tasks == set()
        first, second = await events(rig.books)
    assert 110 < first["left"] <= 120
    assert second["tries"] == 0


async def test_a_receiver_that_asks_for_a_year_is_asked_again_after_an_hour(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    receiver.answer, receiver.headers = lambda _: 503, {"Retry-After": "31536000"}
    async with telling(rig, receiver) as (made, parts):
        await made.look()
        await until(lambda: counted(parts)["again"] == 1)
    assert (await events(rig.books))[0]["left"] == pytest.approx(3600, abs=10)


@pytest.mark.parametrize(("status", "age"), [(410, "0 s"), (503, "3 days 1 s")])
async def test_what_is_given_up_is_kept_counted_and_logged_and_the_next_of_its_generation_told(
    rig: Rig, receiver: Receiver, status: int, age: str
) -> None:
    await add(rig.books, "g")
    await rig.pool.execute("UPDATE reconciler.events SET at = now() - $1::text::interval, tries = 9", age)
    await add(rig.books, "g", kind="recovered")
    receiver.answer = lambda heard: status if heard.kind == "generation.succeeded" else 200
    async with telling(rig, receiver) as (made, parts):
        with capture_logs() as lines:
            await made.look()
            await until(lambda: counted(parts)["dead"] == 1)
            await until(lambda: not made._tasks)
            await made.look()
            await until(lambda: counted(parts)["told"] == 1, what="the next event")
        assert counted(parts) == {"told": 1, "again": 0, "dead": 1}
    dead, told = await events(rig.books)
    assert dead["dead_at"] is not None
    assert dead["trouble"] == f"http_{status}"
    assert told["announced_at"] is not None
    assert [line["log_level"] for line in lines if line["event"] == "event.dead"] == ["warning"]


async def test_what_was_given_up_is_told_again_by_hand_and_not_given_up_at_the_first_try(
    rig: Rig, receiver: Receiver
) -> None:
    await add(rig.books, "g")
    await rig.pool.execute("UPDATE reconciler.events SET at = now() - interval '9 days', tries = 99, dead_at = now()")
    receiver.answer = lambda _: 503
    async with telling(rig, receiver) as (made, parts):
        await made.look()
        assert not made._tasks
        await rig.pool.execute(AGAIN)
        await made.look()
        await until(lambda: counted(parts)["again"] == 1, what="a try in vain")
        await until(lambda: not made._tasks)
        receiver.answer = lambda _: 200
        await due(rig.books)
        await made.look()
        await until(lambda: all_told(rig.books))


async def test_one_poisonous_event_does_not_keep_the_others_waiting(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, *(f"g{n}" for n in range(40)))
    receiver.answer = lambda heard: 422 if heard.generation_id == "g0" else 200
    async with telling(rig, receiver) as (made, parts):

        async def looked() -> bool:
            await made.look()
            return counted(parts)["told"] == 39

        await until(looked, what="all but one")
    assert [event["announced_at"] is None for event in await events(rig.books)] == [True] + [False] * 39


async def test_a_drain_lets_what_is_being_told_end_and_begins_nothing(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, *(f"g{n}" for n in range(BREADTH + 4)))
    gate = asyncio.Event()

    async def answer(_: Heard) -> int:
        await gate.wait()
        return 200

    receiver.answer = answer
    async with telling(rig, receiver) as (made, _):
        await made.look()
        await until(lambda: receiver.at_once == BREADTH)
        draining = asyncio.create_task(made.drain(10))
        await until(lambda: made._draining)
        gate.set()
        await draining
        await made.look()
        made.stir()
        await until(lambda: not made._tasks)
    found = await events(rig.books)
    assert sum(event["announced_at"] is not None for event in found) == BREADTH
    assert [event["tries"] for event in found if event["announced_at"] is None] == [0] * 4
    assert len(receiver.heard) == BREADTH


async def test_what_was_being_claimed_when_a_drain_began_is_given_back(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    async with telling(rig, receiver) as (made, _):
        take = made._outbox.take

        async def overtaken(count: int) -> list[OutboxEvent]:
            taken = await take(count)
            await made.drain(0)
            return taken

        made._outbox.take = overtaken  # type: ignore[method-assign]
        await made.look()
        (event,) = await events(rig.books)
        assert (event["tries"], event["next_at"]) == (1, None)
        assert not made._tasks
    assert receiver.heard == []


async def test_a_drain_that_is_over_gives_back_what_has_no_answer(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, *(f"g{n}" for n in range(3)))
    receiver.answer = never
    async with telling(rig, receiver) as (made, _):
        await made.look()
        await until(lambda: receiver.at_once == 3)
        await asyncio.wait_for(made.drain(0.1), 5)
        assert [event["next_at"] for event in await events(rig.books)] == [None] * 3


async def test_a_process_that_slept_with_an_event_in_hand_does_not_tell_it(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    async with telling(rig, receiver) as (made, _):
        (event,) = await made._outbox.take(1)
        woke_at = time.monotonic()
        assert not await made._told(_Held(event, drawn=woke_at - 31))
        assert receiver.heard == []
        assert await made._told(_Held(event, drawn=woke_at - 29))


async def test_what_could_not_be_marked_is_told_again_with_its_id(rig: Rig, receiver: Receiver) -> None:
    await add(rig.books, "g")
    async with telling(rig, receiver) as (made, parts), rig.pool.acquire() as other:

        async def answer(_: Heard) -> int:
            # Whoever marks it now meets a server that hangs up.
            await parts.database._pool.close()  # type: ignore[union-attr]
            return 200

        receiver.answer = answer
        with capture_logs() as lines:
            await made.look()
            await until(lambda: not made._tasks, what="the first telling")
        assert [line["event"] for line in lines] == ["event.not_marked"]
        assert await other.fetchval("SELECT announced_at FROM reconciler.events") is None
        receiver.answer = lambda _: 200
        await parts.database._reopen()
        await due(rig.books)
        await made.look()
        await until(lambda: all_told(rig.books))
    assert len(receiver.taken) == 2
    assert len({one.id for one in receiver.heard}) == 1


async def test_rounds_and_notifications_make_it_look(rig: Rig, receiver: Receiver) -> None:
    async with telling(rig, receiver) as (made, parts):
        periodic = periodic_tasks(parts, made)
        await add(rig.books, "heard of")
        listener(parts, periodic, route_services(parts).hub, made)._on_event("heard of", 1)
        await until(lambda: receiver.of("heard of"), within=2)
        periodic.scheduler.start()
        try:
            await add(rig.books, "not heard of")
            await until(lambda: receiver.of("not heard of"), within=4)
        finally:
            periodic.scheduler.stop()


async def test_nobody_is_told_without_an_address_or_while_observing(rig: Rig, receiver: Receiver) -> None:
    async with rig.instance() as parts, announcer(parts) as made:
        assert made is None
    changes = {"RECONCILER_NOTIFY_URL": receiver.url, "RECONCILER_NOTIFY_SECRET": SECRET}
    async with rig.instance(observe=True, **changes) as parts, announcer(parts) as made:
        assert made is None


def test_pauses_double_up_to_a_bound_and_are_spread_by_dice() -> None:
    assert [pause(tries, 0) for tries in (1, 2, 3)] == [2, 4, 8]
    assert pause(40, 0) == pause(400_000, 0) == LONGEST_PAUSE
    assert [round(pause(3, dice), 3) for dice in (0.3, 0.6, 0.9)] == [7.2, 6.4, 5.6]
