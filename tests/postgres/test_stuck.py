"""Each generation is named once for each task when it becomes stuck, whichever replica looks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from reconciler.postgres.pool import Database
from reconciler.postgres.reports.reports import ReportScope
from reconciler.postgres.schema import introspect
from reconciler.postgres.stuck import MOST, StuckRows
from testkit.rows import HOUR, add, keep


@pytest.fixture
async def stuck(dsn: str, pool: Any) -> AsyncIterator[StuckRows]:
    database = Database(dsn, size=2)
    async with pool.acquire() as connection:
        table = await introspect(connection)
    yield StuckRows(database, table, ReportScope(stuck_after=timedelta(minutes=10)))
    await database.close()


async def test_a_generation_is_named_once_with_its_task_age_and_reason(pool: Any, stuck: StuckRows) -> None:
    old = await add(pool, "generating", timedelta(minutes=11))
    await keep(pool, old, why="store: storage_5xx")
    young = await add(pool, "generating", timedelta(minutes=9))
    await keep(pool, young)

    (found,) = await stuck.mark()

    assert (found.generation_id, found.task_id, found.reason) == (old, "task", "store: storage_5xx")
    assert found.age == pytest.approx(660, abs=5)
    assert await stuck.mark() == ()


async def test_rows_that_have_ended_or_belong_to_others_are_not_named(pool: Any, stuck: StuckRows) -> None:
    for status in ("success", "failed", "cancelled"):
        await keep(pool, await add(pool, status, HOUR))
    await keep(pool, await add(pool, "generating", HOUR, provider="fal"))

    assert await stuck.mark() == ()


async def test_another_task_that_is_stuck_too_is_named_again(pool: Any, stuck: StuckRows) -> None:
    row = await add(pool, "generating", HOUR)
    await keep(pool, row, why="of the first task")
    await stuck.mark()
    await pool.execute("UPDATE public.generations SET task_id = 'second'")
    await pool.execute(
        "UPDATE reconciler.work SET seen_task = 'second', task_since = now(), stuck_at = now() - interval '1 hour'"
    )
    assert await stuck.mark() == (), "the second task has just begun"

    await pool.execute("UPDATE reconciler.work SET task_since = now() - interval '11 minutes'")

    assert [one.task_id for one in await stuck.mark()] == ["second"]


async def test_a_row_that_no_replica_has_looked_at_is_named_after_its_first_look(pool: Any, stuck: StuckRows) -> None:
    row = await add(pool, "queued", HOUR)
    assert await stuck.mark() == ()

    await keep(pool, row)

    assert [one.reason for one in await stuck.mark()] == ["waiting for its first poll"]


async def test_a_locked_row_is_left_for_the_next_time(pool: Any, stuck: StuckRows) -> None:
    row = await add(pool, "generating", HOUR)
    await keep(pool, row)
    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM reconciler.work FOR UPDATE")
        assert await stuck.mark() == ()

    assert [one.generation_id for one in await stuck.mark()] == [row]


async def test_after_an_outage_the_rest_follows(pool: Any, stuck: StuckRows) -> None:
    for _ in range(MOST + 1):
        await keep(pool, await add(pool, "generating", HOUR))

    assert [len(await stuck.mark()) for _ in range(3)] == [MOST, 1, 0]
