"""What waiting costs: no write to the application's table, and few statements in the database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from reconciler.demo.embedded_postgres import Postgres
from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import Simulator, never
from testkit.stage import Rig, staged
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until

pytestmark = pytest.mark.soak

PER_MINUTE = 240
CANARIES = 1

_CALLS = """
SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
 WHERE query LIKE $1 AND query NOT LIKE '%pg_stat_statements%'
"""


@pytest.fixture
async def own(pg_programs: Path | None, kie: Simulator, tmp_path: Path) -> AsyncIterator[Rig]:
    """A stage on a server that counts statements."""
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with Postgres.start(bin_dir=pg_programs, settings=settings) as server:
        await migrate(server.dsn(), application=True)
        async with staged(server.dsn(), kie, tmp_path, SupabaseStorage()) as rig:
            await rig.pool.execute("CREATE EXTENSION pg_stat_statements")
            yield rig


@pytest.mark.parametrize("count", [100, 1000], ids=lambda count: f"{count} rows")
async def test_rows_in_flight_write_nothing_to_the_applications_table(rig: Rig, count: int) -> None:
    witness = await rig.witness()
    for n in range(count):
        state = ("waiting", "queuing", "generating")[n % 3]
        task_id = rig.kie.add_task(life=never(state))
        await rig.insert(task_id, status="generating" if state == "generating" else "queued")
    replica = await rig.run(RECONCILER_POLL_RATE="400")
    tasks = rig.kie.tasks.values()
    await until(lambda: all(task.polls for task in tasks), 60, "a look at every row")
    await until(lambda: sum(task.polls > 1 for task in tasks) >= count / 5, 60, "second looks")
    assert await witness.changes() == []
    assert await replica.figure("polls_total", outcome="working") >= count


@pytest.fixture
async def counter(own: Rig) -> AsyncIterator[Callable[[str], Awaitable[int]]]:
    """Counts how often statements like this were run, over a connection that is not counted."""
    connection = await asyncpg.connect(own.dsn)

    async def calls(like: str) -> int:
        counted: int = await connection.fetchval(_CALLS, like)
        return counted

    try:
        yield calls
    finally:
        await connection.close()


async def test_with_nothing_to_do_it_asks_the_database_little(
    own: Rig, counter: Callable[[str], Awaitable[int]]
) -> None:
    await own.run(RECONCILER_LEASE_SECONDS="30", RECONCILER_SWEEP_SECONDS="15", RECONCILER_POLL_RATE="5")
    await own.delivered([await own.order()])

    async def sung(times: int) -> bool:
        return await counter("%pg_notify($1, $2)%") == times

    await until(lambda: sung(1), what="a first canary")
    since, begun = time.monotonic(), await counter("%")
    await until(lambda: sung(1 + CANARIES), 40, f"{CANARIES} more canaries")
    statements = await counter("%") - begun
    assert CANARIES < statements / (time.monotonic() - since) * 60 < PER_MINUTE
