"""What the reports say of the replicas and of the database's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from reconciler.postgres.pool import Database
from reconciler.postgres.reports.reports import Reports
from reconciler.postgres.schema import introspect


@pytest.fixture
async def reports(pool: Any, dsn: str) -> AsyncIterator[Reports]:
    async with pool.acquire() as connection:
        table = await introspect(connection)
    database = Database(dsn, size=2)
    yield Reports(database, table)
    await database.close()


async def test_a_replica_is_alive_for_two_leases(pool: Any, reports: Reports) -> None:
    for age in (1, 59, 61, 4000):
        await pool.execute(
            """INSERT INTO reconciler.instances (id, host, pid, version, seen_at)
               VALUES (gen_random_uuid(), 'host', 1, '0', now() - $1 * interval '1 second')""",
            age,
        )

    assert (await reports.status()).replicas == 2
    assert (await reports.snapshot()).instances == 2


async def test_a_replica_is_lost_that_fell_silent_within_the_hour_and_was_not_started_again(
    pool: Any, reports: Reports
) -> None:
    ages = {"alive": (600, 5), "silent": (600, 130), "started-anew": (600, 130), "long-gone": (8000, 3700)}
    insert = (
        "INSERT INTO reconciler.instances (id, host, pid, version, started_at, seen_at) VALUES"
        " (gen_random_uuid(), $1, 7, '0', now() - $2 * interval '1 second', now() - $3 * interval '1 second')"
    )
    for host, (started, seen) in ages.items():
        await pool.execute(insert, host, started, seen)
    await pool.execute(insert, "started-anew", 60, 5)

    assert (await reports.snapshot()).replicas_lost == ("silent (pid 7)",)


async def test_the_clock_of_the_database_is_compared_with_ours_and_its_last_step_is_known(
    pool: Any, reports: Reports
) -> None:
    steady = await reports.snapshot()
    assert (steady.clock_ahead, steady.step_age) == (pytest.approx(0, abs=30), None)
    await pool.execute(
        "INSERT INTO reconciler.clock (seen_at, stepped_at) VALUES (now(), now() - interval '90 seconds')"
        " ON CONFLICT (single) DO UPDATE SET stepped_at = excluded.stepped_at"
    )
    assert (await reports.snapshot()).step_age == pytest.approx(90, abs=30)
