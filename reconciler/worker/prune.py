"""Taking away what nobody needs, in batches: old failures with nothing stored, and objects that nobody names.

Called by the rounds and by the command `cleanup`. A batch is one short statement, so a million rows hold no lock for
long, and what is stopped in the middle is gone on with the next time.
"""

from __future__ import annotations

from datetime import timedelta

from reconciler.postgres.retention import Retention
from reconciler.storage import Store

ORPHANED = timedelta(hours=1)
"""An object is removed only when it was marked so long ago: whoever still had it in hand has ended by then."""


async def delete_failed(
    upkeep: Retention, older: timedelta, *, dry_run: bool = False, batches: int | None = None
) -> int:
    """Delete failed generations older than this with nothing stored, or only count them; return how many."""
    count, after = 0, None
    while batches is None or batches > 0:
        batch = await upkeep.failed(older, after=after, dry_run=dry_run)
        count, after = count + batch.count, batch.after
        if after is None:
            break
        batches = None if batches is None else batches - 1
    return count


async def remove_orphans(upkeep: Retention, store: Store, *, dry_run: bool = False) -> list[str]:
    """Remove objects that are marked as orphans and that nobody names, or only list them; return their paths."""
    removed: list[str] = []
    after: str | None = ""
    while after is not None:
        paths, after = await upkeep.orphans(ORPHANED, after)
        # First the object, then its mark: a crash between the two only asks for the same again.
        if paths and not dry_run:
            await store.remove(paths)
            await upkeep.removed(paths)
        removed += paths
    return removed
