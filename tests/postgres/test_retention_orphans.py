"""An object that no row names is removed from storage an hour after it was marked; one that a row names stays."""

from __future__ import annotations

from datetime import timedelta

from reconciler.postgres.orphans import PAGE
from reconciler.postgres.retention import BATCH
from reconciler.worker.periodic.retention import delete_failed, remove_orphans
from tests.postgres.books import Books

DAY = 86_400.0
LOOSE = "user/image/loose_0.png"


class Shelf:
    """A storage that only records removals."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def remove(self, paths: list[str]) -> None:
        self.removed += paths


async def mark(books: Books, path: str = LOOSE, age: str = "61 minutes") -> None:
    sql = "INSERT INTO reconciler.orphans (path, why, since) VALUES ($1, 'a test', now() - $2::text::interval)"
    await books.pool.execute(sql, path, age)


async def cleaned(books: Books, *, dry_run: bool = False) -> tuple[list[str], list[str], int]:
    """Return the paths that were returned as removed, those that storage removed, and how many marks are left."""
    shelf = Shelf()
    returned = await remove_orphans(books.orphans(), shelf, dry_run=dry_run)  # type: ignore[arg-type]
    left: int = await books.pool.fetchval("SELECT count(*) FROM reconciler.orphans")
    return returned, shelf.removed, left


async def test_a_marked_object_is_removed_an_hour_later_and_its_mark_with_it(books: Books) -> None:
    await mark(books)
    await mark(books, "user/image/young_0.png", "59 minutes")
    assert await cleaned(books, dry_run=True) == ([LOOSE], [], 2)
    assert await cleaned(books) == ([LOOSE], [LOOSE], 1)
    assert await cleaned(books) == ([], [], 1)


async def test_an_object_that_a_row_names_by_now_stays(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    named = ["user/image/shown_0.png", row.assets[0].path]
    for path in named:
        await mark(books, path)
    await books.insert(status="success", asset_url=f"https://cdn.example/x/public/generations/{named[0]}?t=1")
    assert await cleaned(books) == ([], [], 2)


async def test_all_of_many_orphans_are_removed_though_some_before_them_stay(books: Books) -> None:
    await books.insert(status="success", asset_url="https://cdn.example/user/image/0000_0.png")
    paths = [f"user/image/{n:04}_0.png" for n in range(PAGE + 3)]
    await books.pool.execute(
        "INSERT INTO reconciler.orphans SELECT path, 'a test', now() - interval '2 hours' FROM unnest($1::text[]) path",
        paths,
    )
    returned, removed, left = await cleaned(books)
    assert (returned, removed, left) == (paths[1:], paths[1:], 1)


async def test_a_cancelled_row_leaves_its_object_to_be_removed(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    await books.change(row.id, "status = 'cancelled'")
    row = (await books.ledger().read([row.id]))[row.id].row
    await books.ledger().leave(row, claim, "cancelled")
    await books.pool.execute("UPDATE reconciler.orphans SET since = now() - interval '2 hours'")
    returned, removed, _ = await cleaned(books)
    assert returned == removed == ["user/image/generation_0.png"]


async def test_every_old_failure_goes_in_batches_and_a_dry_run_only_counts(books: Books) -> None:
    await books.pool.execute(
        """INSERT INTO public.generations (status, created_at, updated_at, result_urls)
           SELECT 'failed', now() - interval '31 days' - n * interval '1 second', now() - interval '31 days',
                  CASE WHEN n % 10 = 0 THEN '["https://x"]'::jsonb END FROM generate_series(1, $1) n""",
        3 * BATCH,
    )
    old, kept = timedelta(days=30), 3 * BATCH // 10
    assert await delete_failed(books.retention(), old, dry_run=True) == 3 * BATCH - kept
    assert await delete_failed(books.retention(), old, batches=1) <= BATCH
    assert await books.pool.fetchval("SELECT count(*) FROM public.generations") > kept
    await delete_failed(books.retention(), old)
    assert await books.pool.fetchval("SELECT count(*) FROM public.generations") == kept
    assert await delete_failed(books.retention(), old) == 0


async def test_an_unproven_upload_of_a_deleted_failure_becomes_an_orphan(books: Books) -> None:
    row, claim = await books.held(await books.insert(age=31 * DAY))
    row = await books.stored(row, claim)
    await books.change(row.id, "status = 'failed'")
    await books.set(row.id, "failed_at = now() - interval '31 days', lease = NULL, lease_until = NULL")
    await books.pool.execute("UPDATE reconciler.assets SET verified_by = NULL")
    assert await delete_failed(books.retention(), timedelta(days=30)) == 1
    assert await books.pool.fetchval("SELECT path FROM reconciler.orphans") == row.assets[0].path
    assert await books.pool.fetchval("SELECT count(*) FROM reconciler.assets") == 0


async def test_deliveries_of_an_older_version_get_a_time_for_their_audit_within_a_month(books: Books) -> None:
    old, resting, fresh = [await books.insert(task_id=f"task-{n}") for n in range(3)]
    for one in (old, resting, fresh):
        await books.claim(one)
    await books.set(old, "delivered_at = now(), due_at = NULL, lease = NULL, lease_until = NULL")
    await books.set(resting, "delivered_at = now(), due_at = now()")
    await books.retention().enrol()
    found = await books.pool.fetch(
        "SELECT generation_id, audit_at BETWEEN now() AND now() + interval '30 days' AS soon FROM reconciler.work"
        " WHERE audit_at IS NOT NULL"
    )
    assert [tuple(one) for one in found] == [(old, True)]
