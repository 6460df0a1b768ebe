"""What replicas tell of their work and who waits: read as it was told, without the dead, the held and the future."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.pool import Database
from reconciler.postgres.reports.activity import LONGEST, TERM, ActiveTransfer, ActivityReader

DOING = {
    "transfers": [
        {"generation_id": "film", "n": 2, "stage": "fetch", "done": 5, "total": None, "seconds": 1.5},
    ],
    "held": 3, "polls": 20, "deliveries": 4, "downloaded": 500, "uploaded": 400,
}  # fmt: skip

_WORK = """
INSERT INTO reconciler.work (generation_id, seen_task, due_at, lease, lease_until, looks, why)
VALUES ($1, 'task-' || $1, now() + $2 * interval '1 second', gen_random_uuid(), now() + $3 * interval '1 second', 2, $4)
"""


@pytest.fixture
async def database(rows_dsn: str) -> AsyncIterator[Database]:
    database = Database(rows_dsn, size=2)
    yield database
    await database.close()


@pytest.fixture
def watching(database: Database) -> ActivityReader:
    return ActivityReader(database, alive=timedelta(seconds=60))


def presence(database: Database) -> Heartbeat:
    return Heartbeat(database, uuid.uuid4(), term=30.0)


async def work(database: Database, name: str, due: float, lease: float | None, why: str | None = None) -> None:
    await database.execute(_WORK, name, due, lease, why)


async def test_what_each_replica_said_last_is_told_with_who_leads(database: Database, watching: ActivityReader) -> None:
    first, second = presence(database), presence(database)
    await first.beat({})
    await second.beat({})
    await second.lead()
    await second.beat(DOING)

    moment = await watching.look()
    idle, busy = moment.replicas

    assert [idle.leads, busy.leads] == [False, True]
    assert (idle.transfers, idle.held) == ((), 0)
    assert busy.transfers == (ActiveTransfer("film", 2, "fetch", 5, None, 1.5),)
    assert (busy.held, busy.polls, busy.deliveries, busy.downloaded, busy.uploaded) == (3, 20, 4, 500, 400)
    assert idle.told_at <= busy.told_at <= moment.at


async def test_a_replica_that_fell_silent_is_not_shown(database: Database, watching: ActivityReader) -> None:
    await presence(database).beat(DOING)
    await database.execute("UPDATE reconciler.instances SET seen_at = now() - interval '61 seconds'")
    assert (await watching.look()).replicas == ()


async def test_a_replica_that_has_told_nothing_yet_is_shown_idle(database: Database, watching: ActivityReader) -> None:
    await presence(database).beat(DOING)
    await database.execute("UPDATE reconciler.instances SET doing = NULL")
    (replica,) = (await watching.look()).replicas
    assert (replica.transfers, replica.polls) == ((), 0)


async def test_a_presence_learns_that_somebody_watches_and_when_nobody_does_any_more(
    database: Database, watching: ActivityReader
) -> None:
    one = presence(database)
    assert not await one.beat({})
    await watching.watch()
    await watching.watch()
    assert await one.beat({})
    await database.execute("UPDATE reconciler.watching SET until = until - $1::interval", TERM)
    assert not await one.beat({})


async def test_who_is_due_and_in_nobodys_hands_waits_for_a_turn_the_longest_first(
    database: Database, watching: ActivityReader
) -> None:
    await work(database, "held", due=-50, lease=20)
    await work(database, "not yet", due=50, lease=None)
    await work(database, "long", due=-40, lease=-1, why="KIE: rate_limited")
    await work(database, "short", due=-4, lease=None)

    moment = await watching.look()

    assert moment.overdue == 2
    assert [(one.generation_id, one.task_id, one.why) for one in moment.waiting] == [
        ("long", "task-long", "KIE: rate_limited"),
        ("short", "task-short", None),
    ]
    assert moment.waiting[0].waited == pytest.approx(40, abs=3)


async def test_of_many_who_wait_only_some_are_named(database: Database, watching: ActivityReader) -> None:
    for n in range(LONGEST + 5):
        await work(database, f"row-{n}", due=-5 - n, lease=None)
    moment = await watching.look()
    assert (moment.overdue, len(moment.waiting)) == (LONGEST + 5, LONGEST)
    assert moment.waiting[0].generation_id == f"row-{LONGEST + 4}"


async def test_a_keys_budget_is_told_by_how_far_its_requests_are_given_away(
    database: Database, watching: ActivityReader
) -> None:
    filled = "INSERT INTO reconciler.budget VALUES ('busy', now() + interval '8 seconds'), ('idle', now())"
    await database.execute(filled)
    busy, idle = (await watching.look()).keys
    assert (busy.key_hash, idle.key_hash, idle.booked) == ("busy", "idle", 0.0)
    assert 2 < busy.booked <= 8
