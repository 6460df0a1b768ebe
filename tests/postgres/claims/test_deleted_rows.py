"""After a mass deletion by the application, the bookkeeping goes at once, and nothing else does."""

from __future__ import annotations

from tests.postgres.books import Books

DUE = "due_at = now() - interval '1 minute'"


async def test_deleted_generations_leave_the_bookkeeping_in_one_statement(books: Books) -> None:
    kept = await books.insert()
    deleted = [await books.insert() for _ in range(30)]
    await books.claims().discover()
    for generation_id in (kept, *deleted):
        await books.set(generation_id, DUE)
    await books.pool.execute("DELETE FROM public.generations WHERE id::text = ANY($1)", deleted)

    assert await books.claims().deleted_rows.forget() == 30

    assert await books.pool.fetch("SELECT generation_id FROM reconciler.work") == [(kept,)]
    assert await books.claims().deleted_rows.forget() == 0


async def test_what_was_stored_for_a_deleted_generation_becomes_an_orphan(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    stored = await books.stored(row, claim)
    await books.claims().release([claim])
    await books.set(row.id, DUE)
    await books.pool.execute("DELETE FROM public.generations")

    assert await books.claims().deleted_rows.forget() == 1

    orphans = await books.pool.fetch("SELECT path FROM reconciler.orphans")
    assert [path for (path,) in orphans] == [asset.path for asset in stored.assets]
    assert await books.pool.fetchval("SELECT count(*) FROM reconciler.assets") == 0


async def test_a_row_that_is_held_or_not_due_is_left_to_its_visit(books: Books) -> None:
    held, later = [await books.insert() for _ in range(2)]
    await books.claim(held)
    await books.claims().discover()
    await books.set(later, "due_at = now() + interval '1 minute'")
    await books.set(held, DUE)
    await books.pool.execute("DELETE FROM public.generations")

    assert await books.claims().deleted_rows.forget() == 0

    assert await books.pool.fetchval("SELECT count(*) FROM reconciler.work") == 2
