"""Deletes in batches what is needed no more: old failed generations with nothing stored, and orphaned objects.

The periodic tasks and the command `cleanup` call this. A batch is one short statement, so a million rows hold no lock
for long, and a run that is interrupted continues the next time.
"""

from __future__ import annotations

from datetime import timedelta

from reconciler.postgres.retention import Retention
from reconciler.storage import Store

ORPHANED = timedelta(hours=1)
"""How long an object is marked before it is removed: a visit that still uses it has ended by then."""


async def delete_failed(
    retention: Retention, older: timedelta, *, dry_run: bool = False, batches: int | None = None
) -> int:
    """Delete, or with `dry_run` only count, failed generations older than this with nothing stored; return how many."""
    count, after = 0, None
    while batches is None or batches > 0:
        batch = await retention.failed(older, after=after, dry_run=dry_run)
        count, after = count + batch.count, batch.after
        if after is None:
            break
        batches = None if batches is None else batches - 1
    return count


async def remove_orphans(retention: Retention, store: Store, *, dry_run: bool = False) -> list[str]:
    """Remove, or with `dry_run` only list, objects marked as orphans that no row names; return their paths."""
    removed: list[str] = []
    after: str | None = ""
    while after is not None:
        paths, after = await retention.orphans(ORPHANED, after)
        # First the object, then its mark: after a crash between the two, removing it again is harmless.
        if paths and not dry_run:
            await store.remove(paths)
            await retention.removed(paths)
        removed += paths
    return removed
