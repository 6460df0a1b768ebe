"""One measurement: a good row a second, alone or beside a bad neighbour, on a stage of its own."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.neighbours import bad
from benchmarks.neighbours.bad import PICTURE, Neighbour
from reconciler.demo.embedded_postgres import Postgres
from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import Simulator
from testkit.stage import KEY, Rig, staged
from testkit.standins.storage import SupabaseStorage

SETTINGS = {
    **bad.SETTINGS,
    "RECONCILER_API_TOKEN": "token-of-the-benchmark",
    "RECONCILER_CONCURRENCY": "8",
    "RECONCILER_LEASE_SECONDS": "30",
    "RECONCILER_POLL_RATE": "10",
    "RECONCILER_SWEEP_SECONDS": "15",
}
WARM_ROWS = 5
PATIENCE = 120.0
"""Seconds after the last good row that all of them may still take; what is not stored then counts with its age."""

# From the statement that inserted the row until its success was committed, by the database's clock.
_TOOK = """
SELECT extract(epoch FROM coalesce(w.delivered_at, clock_timestamp()) - i.at)::float8
  FROM unnest($1::text[], $2::timestamptz[]) AS i (id, at)
  LEFT JOIN reconciler.work w ON w.generation_id = i.id
"""
_WAITING = "SELECT count(*) FROM public.generations WHERE id::text = ANY($1) AND status <> 'success'"


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds from INSERT to stored of each good row, and how many leases the replica lost."""

    seconds: Sequence[float]
    leases_lost: int

    @property
    def median(self) -> float:
        """Return the median in seconds."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """Return the 95th percentile in seconds: the value that at most one in twenty exceeds."""
        return sorted(self.seconds)[-(len(self.seconds) // 20) - 1]


async def measure(folder: Path, neighbour: Neighbour | None, *, rows: int) -> Waits:
    """Insert so many good rows, one a second, beside this neighbour, and return how long each waited."""
    async with contextlib.AsyncExitStack() as stack:
        postgres = stack.enter_context(Postgres.start(settings={"max_connections": "120"}))
        await migrate(postgres.dsn(), application=True)
        kie = Simulator(keys=(KEY,), limits=False, hang_seconds=60.0, latency=0.05)
        rig = await stack.enter_async_context(staged(postgres.dsn(), kie, folder, SupabaseStorage()))
        replica = await rig.run(**SETTINGS)
        await rig.delivered([await rig.order(life=0.0, results=[PICTURE]) for _ in range(WARM_ROWS)])
        url = f"http://127.0.0.1:{await replica.port()}"
        if neighbour is not None:
            await stack.enter_async_context(neighbour(rig, url))
        seconds = await _good_rows(rig, rows)
        return Waits(seconds, int(await replica.figure("leases_lost_total")))


async def _good_rows(rig: Rig, count: int) -> Sequence[float]:
    ids, times = [], []
    begins = time.monotonic()
    for n in range(count):
        await asyncio.sleep(max(begins + n - time.monotonic(), 0.0))
        times.append(await rig.pool.fetchval("SELECT clock_timestamp()"))
        ids.append(await rig.order("generating", life=0.0, results=[PICTURE]))
    deadline = time.monotonic() + PATIENCE
    while await rig.pool.fetchval(_WAITING, ids) and time.monotonic() < deadline:
        await asyncio.sleep(0.25)
    return [row[0] for row in await rig.pool.fetch(_TOOK, ids, times)]
