"""Deletes what is too old: the leader a bounded amount every hour, the command `cleanup` as much as it is told to.

The statements are in `postgres/retention.py`, `postgres/orphans.py` and `postgres/poll_stats.py`. A batch is one short
statement, so a million rows hold no lock for long, and a run that is interrupted continues the next time.
"""

import math
from datetime import timedelta

import structlog

from reconciler.postgres.clock import ClockUntrusted
from reconciler.postgres.orphans import REMOVAL, Orphans
from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.retention import Retention
from reconciler.storage import Store
from reconciler.worker.periodic.leadership import Leadership

log = structlog.get_logger()

BATCHES = 40
"""Batches of old failures that one run deletes: a backlog of a million takes two days and disturbs nothing else."""

ORPHANED = timedelta(hours=1)
"""How long an object is marked before it is removed: a visit that still uses it has ended by then."""


async def clean_up(retention: Retention, poll_stats: PollStats, leadership: Leadership, *, failed_days: int) -> None:
    """Delete the next part of the old bookkeeping, and of the failed rows older than `failed_days` (0 = never).

    Nothing is deleted while the database's clock cannot be trusted; the next run goes on.
    """
    if not leadership.leads:
        return
    await poll_stats.trim()
    try:
        await retention.traces()
        await retention.enrol()
        await retention.deserted()
        if failed_days and (deleted := await delete_failed(retention, timedelta(days=failed_days), batches=BATCHES)):
            log.info("failed.deleted", generations=deleted, older_than_days=failed_days)
    except ClockUntrusted as error:
        log.info("upkeep.deferred", reason=str(error))


async def delete_failed(
    retention: Retention, older: timedelta, *, dry_run: bool = False, batches: float = math.inf
) -> int:
    """Delete, or with `dry_run` only count, failed generations older than this with nothing stored; return how many."""
    count, after = 0, None
    while batches > 0:
        batch = await retention.failed(older, after=after, dry_run=dry_run)
        count, after = count + batch.count, batch.after
        if after is None:
            break
        batches -= 1
    return count


async def remove_orphans(orphans: Orphans, store: Store, *, dry_run: bool = False) -> list[str]:
    """Remove, or with `dry_run` only list, objects marked as orphans that no row names; return their paths."""
    removed: list[str] = []
    after: str | None = ""
    while after is not None:
        paths, after = await orphans.page(ORPHANED, after)
        if dry_run:
            removed += paths
            continue
        for start in range(0, len(paths), REMOVAL):
            removed += await orphans.remove(paths[start : start + REMOVAL], ORPHANED, store.remove)
    return removed
