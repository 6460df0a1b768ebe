"""The replicas' reports are read back whole; dead replicas are left out, and held or future rows do not wait."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from reconciler.domain.transfer import Transfer
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.pool import Database
from reconciler.postgres.reports.activity import MAX_WAITING, WATCHED, ActivityReader

REPORT = {
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
def reader(database: Database) -> ActivityReader:
    return ActivityReader(database, alive=timedelta(seconds=60))


def heartbeat(database: Database) -> Heartbeat:
    return Heartbeat(database, uuid.uuid4(), term=30.0)


async def work(database: Database, name: str, due: float, lease: float | None, why: str | None = None) -> None:
    await database.execute(_WORK, name, due, lease, why)


async def test_the_last_report_of_each_replica_is_read_with_its_lead(
    database: Database, reader: ActivityReader
) -> None:
    first, second = heartbeat(database), heartbeat(database)
    await first.beat({})
    await second.beat({})
    await second.lead()
    await second.beat(REPORT)

    snapshot = await reader.look()
    idle, busy = snapshot.replicas

    assert [idle.leads, busy.leads] == [False, True]
    assert (idle.transfers, idle.held) == ((), 0)
    assert busy.transfers == (
        Transfer(instance=str(busy.instance), generation_id="film", n=2, stage="fetch", done=5, seconds=1.5),
    )
    assert (busy.held, busy.polls, busy.deliveries, busy.downloaded, busy.uploaded) == (3, 20, 4, 500, 400)
    assert idle.told_at <= busy.told_at <= snapshot.at


async def test_a_replica_that_fell_silent_is_left_out(database: Database, reader: ActivityReader) -> None:
    await heartbeat(database).beat(REPORT)
    await database.execute("UPDATE reconciler.instances SET seen_at = now() - interval '61 seconds'")
    assert (await reader.look()).replicas == ()


async def test_a_replica_without_a_report_is_listed_as_idle(database: Database, reader: ActivityReader) -> None:
    await heartbeat(database).beat(REPORT)
    await database.execute("UPDATE reconciler.instances SET doing = NULL")
    (replica,) = (await reader.look()).replicas
    assert (replica.transfers, replica.polls) == ((), 0)


async def test_a_heartbeat_learns_whether_the_replicas_are_watched(database: Database, reader: ActivityReader) -> None:
    beating = heartbeat(database)
    assert not (await beating.beat({})).watched
    await reader.watch()
    await reader.watch()
    assert (await beating.beat({})).watched
    await database.execute("UPDATE reconciler.watching SET until = until - $1::interval", WATCHED)
    assert not (await beating.beat({})).watched


async def test_due_rows_without_a_lease_are_waiting_and_the_longest_wait_comes_first(
    database: Database, reader: ActivityReader
) -> None:
    await work(database, "held", due=-50, lease=20)
    await work(database, "not yet", due=50, lease=None)
    await work(database, "long", due=-40, lease=-1, why="KIE: rate_limited")
    await work(database, "short", due=-4, lease=None)

    snapshot = await reader.look()

    assert snapshot.overdue == 2
    assert [(row.generation_id, row.task_id, row.why) for row in snapshot.waiting] == [
        ("long", "task-long", "KIE: rate_limited"),
        ("short", "task-short", None),
    ]
    assert snapshot.waiting[0].waited == pytest.approx(40, abs=3)


async def test_of_many_waiting_rows_only_some_are_listed(database: Database, reader: ActivityReader) -> None:
    for n in range(MAX_WAITING + 5):
        await work(database, f"row-{n}", due=-5 - n, lease=None)
    snapshot = await reader.look()
    assert (snapshot.overdue, len(snapshot.waiting)) == (MAX_WAITING + 5, MAX_WAITING)
    assert snapshot.waiting[0].generation_id == f"row-{MAX_WAITING + 4}"


async def test_a_keys_backlog_is_how_far_ahead_its_requests_are_taken(
    database: Database, reader: ActivityReader
) -> None:
    insert = "INSERT INTO reconciler.budget VALUES ('busy', now() + interval '8 seconds'), ('idle', now())"
    await database.execute(insert)
    busy, idle = (await reader.look()).keys
    assert (busy.key_hash, idle.key_hash, idle.booked) == ("busy", "idle", 0.0)
    assert 2 < busy.booked <= 8
