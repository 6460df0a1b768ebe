"""Retention and changes by others in the table: rows copied, rows referred to, rows hidden, rows reopened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.domain.model import Fail
from reconciler.postgres import orphans
from reconciler.postgres import retention as module
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.migrations.migrate import migrate
from reconciler.worker.periodic.retention import delete_failed, remove_orphans
from testkit.tables import member
from tests.postgres.books import OURS, Books, delivered, opened
from tests.postgres.test_retention_orphans import Shelf

DAY = 86_400.0
MONTH = timedelta(days=30)
LATER = "UPDATE reconciler.orphans SET since = now() - interval '2 hours'"


async def cleaned(books: Books) -> list[str]:
    """Return the paths that a cleanup two hours from now removes."""
    await books.pool.execute(LATER)
    shelf = Shelf()
    await remove_orphans(books.orphans(), shelf)  # type: ignore[arg-type]
    return shelf.removed


@pytest.mark.parametrize("shown", ["asset_urls", "preview_url"])
async def test_an_object_that_a_copy_of_a_deleted_row_shows_stays(books: Books, shown: str) -> None:
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim, sources=2)
    assert await books.ledger().finish(row, claim, delivered(2)) == "succeeded"
    first, second = (f"{OURS}/{asset.path}" for asset in row.assets)
    other = {"asset_urls": "to_jsonb(ARRAY[$1, $2])", "preview_url": "$2 || coalesce(right($1, 0), '')"}[shown]
    copied = f"INSERT INTO public.generations (status, asset_url, {shown}) VALUES ('success', $1::text, {other})"
    await books.pool.execute(copied.replace("$2", "$2::text"), first, second)
    await books.pool.execute("DELETE FROM public.generations WHERE id::text = $1", row.id)
    assert await books.retention().deserted() == 1
    assert await cleaned(books) == []


async def test_an_object_shown_anywhere_in_a_large_table_stays(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "WALK", 3)
    paths = [f"user/image/{n}_0.png" for n in range(8)]
    for path in paths[:7]:
        await books.insert(status="success", asset_url=f"{OURS}/{path}?download=")
    await books.pool.execute("INSERT INTO reconciler.orphans (path, why) SELECT unnest($1::text[]), 'test'", paths)
    assert await cleaned(books) == paths[7:]


@pytest.fixture
async def refunds(books: Books) -> AsyncIterator[None]:
    await books.pool.execute("CREATE TABLE public.refunds (generation_id uuid REFERENCES public.generations (id))")
    yield
    await books.pool.execute("DROP TABLE public.refunds")


@pytest.mark.usefixtures("refunds")
async def test_a_failure_that_another_table_refers_to_keeps_no_other_from_being_deleted(books: Books) -> None:
    named = await books.insert(status="failed", age=33 * DAY)
    await books.pool.execute("INSERT INTO public.refunds SELECT id FROM public.generations")
    for days in (34, 32, 31):
        await books.insert(status="failed", age=days * DAY)
    assert await delete_failed(books.retention(), MONTH) == 3
    assert await books.pool.fetch("SELECT id::text FROM public.generations") == [(named,)]


async def test_a_failure_that_was_just_reopened_is_kept(books: Books) -> None:
    reopened = await books.insert(status="failed", age=31 * DAY)
    assert await Reopener(books.database, books.table, term=30).reopen(reopened)
    assert await delete_failed(books.retention(), MONTH) == 0


async def test_the_walk_reaches_every_row_though_each_process_takes_only_a_few_steps(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WALK", 20)
    rows = "INSERT INTO reconciler.work (generation_id) SELECT gen_random_uuid()::text FROM generate_series(1, 200)"
    await books.pool.execute(rows)
    await books.pool.execute(
        "INSERT INTO public.generations (id, status, asset_url) SELECT generation_id::uuid, 'success', 'x'"
        " FROM reconciler.work ORDER BY generation_id LIMIT 199"
    )
    await books.pool.execute("ANALYZE reconciler.work")
    for _ in range(200):
        if await books.retention().deserted():
            break
    assert await books.pool.fetchval("SELECT count(*) FROM reconciler.work") == 199


async def test_rows_that_row_security_hides_are_not_deleted_rows(dsn: str) -> None:
    async with opened(dsn) as owner, member(dsn, "reconciler") as address:
        # A table without row security has no policies of ours.
        for word in ("select", "insert", "update", "delete"):
            await owner.pool.execute(f"DROP POLICY reconciler_{word} ON public.generations")
        await owner.pool.execute("ALTER TABLE public.generations DISABLE ROW LEVEL SECURITY")
        async with opened(address) as books:
            shown = await owner.insert()
            row, claim = await books.held(shown)
            row = await books.stored(row, claim, sources=2)
            assert await books.ledger().finish(row, claim, delivered(2)) == "succeeded"
            given_up = await owner.insert()
            row, claim = await books.held(given_up)
            await books.ledger().fail(row, claim, Fail("gave up", recheck_at=datetime.now(UTC)))
            held = await owner.insert()
            _, claim = await books.held(held)
            await owner.pool.execute("ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY")
            assert await books.retention().deserted() == 0
            await books.ledger().forget(claim)
            await owner.set(given_up, "due_at = now() - interval '1 minute'")
            assert await books.claims().deleted_rows.forget() == 0
            await migrate(dsn, application=True)
            for kept in (shown, given_up, held):
                assert await owner.work(kept) is not None
            assert await owner.pool.fetchval("SELECT count(*) FROM reconciler.assets") == 2
