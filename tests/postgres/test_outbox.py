"""Events are sent in order within a generation, by one instance at a time, until they are sent or too old."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.postgres import outbox as edge
from reconciler.postgres.outbox import LEAST_TRIES, Outbox, OutboxEvent
from tests.postgres.books import Books
from tests.postgres.claims.test_claims_plans import nodes

OLD = timedelta(days=3, minutes=1)


@pytest.fixture
def outbox(books: Books) -> Outbox:
    return Outbox(books.database)


async def add(books: Books, generation_id: str = "g", kind: str = "succeeded", **columns: Any) -> int:
    """Write an event as the ledger does; return its id."""
    values = {
        "key": f"{generation_id}|task|{kind}|{len(await rows(books))}", "generation_id": generation_id, "kind": kind,
        "payload": json.dumps({"generation_id": generation_id, "task_id": "task"}), **columns,
    }  # fmt: skip
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    sql = f"INSERT INTO reconciler.events ({', '.join(values)}) VALUES ({places}) RETURNING id"
    made: int = await books.pool.fetchval(sql, *values.values())
    return made


async def rows(books: Books) -> list[Any]:
    found: list[Any] = await books.pool.fetch(
        "SELECT *, extract(epoch FROM next_at - now())::float8 AS left FROM reconciler.events ORDER BY id"
    )
    return found


async def aged(books: Books, by: timedelta) -> None:
    await books.pool.execute("UPDATE reconciler.events SET at = at - $1::interval", by)


async def test_n4_no_event_is_given_up_for_its_age_while_the_clock_is_not_trusted(books: Books) -> None:
    await add(books)
    await aged(books, OLD)
    await books.pool.execute("UPDATE reconciler.events SET tries = $1", LEAST_TRIES)
    for trusted, dead in ((None, False), (datetime.now(UTC) - timedelta(hours=25), False), (datetime.now(UTC), True)):
        doubting = Outbox(books.database, lambda now=trusted: now)  # type: ignore[misc]
        (event,) = await doubting.take(8)
        assert await doubting.mark_failed(event, "timeout", wait=0) is dead


async def expire(books: Books) -> None:
    """End every claim and every pause."""
    await books.pool.execute("UPDATE reconciler.events SET next_at = now() - interval '1 second' WHERE next_at > now()")


async def test_an_event_comes_with_all_its_fields(books: Books, outbox: Outbox) -> None:
    number = await add(books, "a", "failed", payload='{"reason": "nö", "task_id": "t-1"}')
    (event,) = await outbox.take(8)
    (row,) = await rows(books)
    assert (event.id, event.generation_id, event.kind, event.at) == (number, "a", "failed", row["at"])
    assert (event.payload, event.task_id, event.tries) == ({"reason": "nö", "task_id": "t-1"}, "t-1", 1)
    assert 55 < row["left"] <= 60


async def test_a_claimed_event_is_claimed_by_no_other_until_the_claim_runs_out(books: Books, outbox: Outbox) -> None:
    await add(books)
    (first,) = await outbox.take(8)
    assert await outbox.take(8) == []
    await expire(books)
    (second,) = await outbox.take(8)
    assert (second.id, second.webhook_id, second.tries) == (first.id, first.webhook_id, 2)


async def test_of_one_generation_only_the_earliest_unsent_event_is_claimed(books: Books, outbox: Outbox) -> None:
    ids = [await add(books, kind=kind) for kind in ("gave_up", "recovered", "failed")]
    other = await add(books, "another")
    for number in ids:
        taken = await outbox.take(8)
        assert {event.id for event in taken} - {other} == {number}
        assert await outbox.take(8) == []
        for event in taken:
            await outbox.mark_sent(event)
    assert await outbox.take(8) == []


async def test_an_event_that_waits_for_its_next_try_delays_its_own_generation_only(
    books: Books, outbox: Outbox
) -> None:
    await add(books, "ill")
    await add(books, "ill", "recovered")
    well = await add(books, "well")
    ill = (await outbox.take(1))[0]
    assert not await outbox.mark_failed(ill, "http_500", wait=30)
    assert [event.id for event in await outbox.take(8)] == [well]
    assert 25 < (await rows(books))[0]["left"] <= 30
    assert (await rows(books))[0]["trouble"] == "http_500"


async def test_an_event_that_was_given_up_delays_no_other(books: Books, outbox: Outbox) -> None:
    await add(books)
    later = await add(books, kind="recovered")
    (first,) = await outbox.take(8)
    assert await outbox.mark_failed(first, "http_410", wait=0, last=True)
    assert [event.id for event in await outbox.take(8)] == [later]
    await expire(books)
    assert first.id not in {event.id for event in await outbox.take(8)}


async def test_no_event_is_claimed_twice_and_none_out_of_turn_by_many_at_once(books: Books, outbox: Outbox) -> None:
    for number in range(60):
        await add(books, f"g{number % 20}", f"kind{number}")
    sent: list[OutboxEvent] = []

    async def instance() -> None:
        while taken := await outbox.take(3):
            sent.extend(taken)
            for event in taken:
                await outbox.mark_sent(event)

    await asyncio.gather(*(instance() for _ in range(5)))
    # An instance may find nothing while the others hold the first event of every remaining generation.
    await instance()
    assert len(sent) == 60
    assert len({event.id for event in sent}) == 60
    for name in {event.generation_id for event in sent}:
        order = [event.id for event in sent if event.generation_id == name]
        assert order == sorted(order)


@pytest.mark.parametrize(
    ("age", "tries", "dead"),
    [
        (OLD, LEAST_TRIES, True),
        (OLD, LEAST_TRIES - 1, False),
        (timedelta(days=3, minutes=-1), 500, False),
    ],
)
async def test_it_is_given_up_after_three_days_and_ten_tries_and_kept(
    books: Books, outbox: Outbox, age: timedelta, tries: int, dead: bool
) -> None:
    await add(books, tries=tries - 1)
    await aged(books, age)
    (event,) = await outbox.take(8)
    assert await outbox.mark_failed(event, "timeout", wait=5) is dead
    (row,) = await rows(books)
    assert ((row["dead_at"] is not None), row["trouble"], row["announced_at"]) == (dead, "timeout", None)


async def test_an_old_event_with_few_tries_is_still_sent(books: Books, outbox: Outbox) -> None:
    await add(books)
    await aged(books, timedelta(days=20))
    assert len(await outbox.take(8)) == 1


async def test_without_its_claim_a_sender_changes_nothing_but_may_mark_it_sent(books: Books, outbox: Outbox) -> None:
    await add(books)
    (mine,) = await outbox.take(8)
    await expire(books)
    (theirs,) = await outbox.take(8)
    before = await rows(books)
    assert not await outbox.mark_failed(mine, "timeout", wait=500, last=True)
    await outbox.release([mine])
    assert [dict(row) | {"left": 0} for row in await rows(books)] == [dict(row) | {"left": 0} for row in before]
    await outbox.mark_sent(mine)
    assert not await outbox.mark_failed(theirs, "timeout", wait=5, last=True)
    (row,) = await rows(books)
    assert row["announced_at"] is not None
    assert row["dead_at"] is None


async def test_a_released_event_can_be_claimed_at_once(books: Books, outbox: Outbox) -> None:
    for name in "ab":
        await add(books, name)
    taken = await outbox.take(8)
    await outbox.release(taken)
    assert {event.id for event in await outbox.take(8)} == {event.id for event in taken}


async def test_the_id_for_receivers_is_the_same_at_every_try_and_unique(books: Books, outbox: Outbox) -> None:
    for name in "abc":
        await add(books, name)
    events = await outbox.take(8)
    assert len({event.webhook_id for event in events}) == 3
    again = replace(events[0], tries=9, until=events[0].until + timedelta(days=1))
    assert again.webhook_id == events[0].webhook_id
    assert replace(events[0], id=99).webhook_id != events[0].webhook_id


async def test_a_claim_among_very_many_events_does_not_read_them_all(books: Books) -> None:
    await books.pool.execute(
        """INSERT INTO reconciler.events (key, generation_id, kind, payload, announced_at, next_at, dead_at)
           SELECT n, 'g' || n % 40000, 'succeeded', '{}', CASE WHEN n % 10 > 1 THEN now() END,
                  CASE n % 10 WHEN 1 THEN now() + interval '1 hour' END, CASE WHEN n % 100 = 0 THEN now() END
             FROM generate_series(1, 50000) n"""
    )
    await books.pool.execute("UPDATE reconciler.events SET next_at = now() + interval '1 hour' WHERE id % 10 = 0")
    await books.pool.execute("ANALYZE reconciler.events")
    sql, *values = edge._TAKE(limit=8, term=edge.TERM)
    found = json.loads(await books.pool.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *values))
    plan = list(nodes(found[0]["Plan"]))
    assert ("Index Scan", "events", "events_due") in plan
    assert "Seq Scan" not in {kind for kind, _, _ in plan}
    assert "Sort" not in {kind for kind, _, _ in plan}
