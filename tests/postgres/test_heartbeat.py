"""Which instances are alive, and which one leads: the lead is taken over when it dies, given up when it leaves."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.migrations.schema_level import LEVEL
from reconciler.postgres.pool import Database
from testkit.waiting import until


@pytest.fixture
async def database(rows_dsn: str) -> AsyncIterator[Database]:
    database = Database(rows_dsn, size=2)
    yield database
    await database.close()


def pair(database: Database, *, term: float = 30.0) -> tuple[Heartbeat, Heartbeat]:
    first, second = (Heartbeat(database, uuid.uuid4(), term=term) for _ in range(2))
    return first, second


async def test_one_instance_leads_and_goes_on_leading(database: Database) -> None:
    first, second = pair(database)
    assert [await first.lead(), await second.lead(), await first.lead(), await second.lead()] == [True, False] * 2


async def test_the_lead_of_a_dead_instance_is_taken_over_after_its_term(database: Database) -> None:
    first, second = pair(database, term=0.4)
    assert await first.lead()
    assert not await second.lead()
    await until(second.lead, within=2, what="the lead")
    assert not await first.lead()


async def test_an_instance_that_leaves_gives_up_the_lead_at_once(database: Database) -> None:
    first, second = pair(database)
    await first.beat({})
    await second.beat({})
    assert await first.lead()
    await first.leave()
    assert await second.lead()
    assert await database.value("SELECT count(*) FROM reconciler.instances") == 1


async def test_an_instance_that_leaves_without_leading_changes_no_lead(database: Database) -> None:
    first, second = pair(database)
    assert await first.lead()
    await second.leave()
    assert not await second.lead()


async def test_a_lead_drawn_by_a_jumping_clock_does_not_last(database: Database) -> None:
    first, second = pair(database)
    assert await first.lead()
    await database.execute("UPDATE reconciler.leader SET until = now() + interval '1 day'")
    assert await second.lead()


async def test_a_beat_writes_the_level_and_learns_the_version_that_the_database_requires(dsn: str) -> None:
    database = Database(dsn, size=1)
    beating = Heartbeat(database, uuid.uuid4(), term=30.0)
    assert (await beating.beat({})).required_version is None
    assert await database.value("SELECT level FROM reconciler.instances") == LEVEL
    for level, version in ((LEVEL, "0.2.0"), (LEVEL + 2, "0.4.0"), (LEVEL + 1, "0.3.0")):
        await database.execute(
            "INSERT INTO reconciler.schema_version (file, sha256, requires_level, requires_version)"
            " VALUES ($1, '', $2, $1)", version, level,
        )  # fmt: skip
    assert (await beating.beat({})).required_version == "0.4.0"
    await database.close()


async def test_the_first_beat_writes_the_instance_and_later_ones_its_time(database: Database) -> None:
    first, _ = pair(database)
    await first.beat({})
    await database.execute("UPDATE reconciler.instances SET seen_at = now() - interval '1 hour'")
    began = await database.row("SELECT started_at, pid FROM reconciler.instances")
    await first.beat({})
    row = await database.row(
        "SELECT started_at, pid, now() - seen_at < interval '5 seconds' AS fresh FROM reconciler.instances"
    )
    assert row is not None
    assert row["fresh"]
    assert (row["started_at"], row["pid"]) == tuple(began or ())
