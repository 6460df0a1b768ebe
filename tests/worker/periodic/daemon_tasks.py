"""An instance's periodic tasks, as the daemon builds them, for tests that run one of them or the whole scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from reconciler.bootstrap import Parts
from reconciler.bootstrap.periodic import PeriodicTasks, periodic_tasks
from reconciler.worker.periodic.scheduler import PeriodicTask


def built(parts: Parts, *, sweep: float = 60.0) -> PeriodicTasks:
    """The daemon's periodic tasks with this interval of the sweep."""
    periodic = periodic_tasks(parts)
    periodic.sweep.interval = task(periodic, "sweep").interval = sweep
    return periodic


def task(periodic: PeriodicTasks, name: str) -> PeriodicTask:
    """The task that the log calls so."""
    return periodic.scheduler.tasks[name]


@asynccontextmanager
async def running(periodic: PeriodicTasks) -> AsyncIterator[PeriodicTasks]:
    """Run the scheduler while the context lasts."""
    periodic.scheduler.start()
    try:
        yield periodic
    finally:
        periodic.scheduler.stop()


async def rows(pool: asyncpg.Pool) -> int:
    """How many rows the application's table has."""
    count: int = await pool.fetchval("SELECT count(*) FROM public.generations")
    return count
