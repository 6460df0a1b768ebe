"""Removing an object next to a visit that stores at the same path: whichever is first, a delivered object stays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from reconciler.domain.model import Row
from reconciler.errors import Transient
from reconciler.postgres import orphans as module
from reconciler.postgres.claims.claims import Claim
from reconciler.worker.periodic.retention import remove_orphans
from testkit.waiting import until
from tests.postgres.books import OURS, Books, asset, delivered
from tests.postgres.test_retention_orphans import Shelf, mark

HOUR = timedelta(hours=1)


class Gate:
    """A storage whose removal stops until it is opened; `removed` are the paths of each call."""

    def __init__(self) -> None:
        self.removed: list[list[str]] = []
        self.entered, self.opened = asyncio.Event(), asyncio.Event()

    async def remove(self, paths: Sequence[str]) -> None:
        self.entered.set()
        await self.opened.wait()
        self.removed.append(list(paths))


async def named(books: Books) -> tuple[Row, Claim, str]:
    """A held row, and the path of its result, which is marked."""
    row, claim = await books.held(await books.insert())
    path = f"user/image/{row.id}_0.png"
    await mark(books, path)
    return row, claim, path


async def intend(books: Books, row: Row, claim: Claim, path: str) -> None:
    await books.ledger().intend(row, claim, asset(path=path))


async def waiting(books: Books) -> bool:
    """Whether a statement waits for a lock."""
    sql = "SELECT true FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await books.pool.fetchval(sql))


async def marks(books: Books) -> int:
    return int(await books.pool.fetchval("SELECT count(*) FROM reconciler.orphans"))


async def audit_in(books: Books, generation_id: str) -> float | None:
    sql = "SELECT extract(epoch FROM audit_at - now())::float8 FROM reconciler.work WHERE generation_id = $1"
    return await books.pool.fetchval(sql, generation_id)  # type: ignore[no-any-return]


async def test_an_object_that_is_delivered_again_between_its_mark_and_its_removal_stays(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N9: the visit comes after the table was compared with the marks, which takes minutes for millions of rows."""
    row, claim, path = await named(books)
    orphans, shelf = books.orphans(), Shelf()
    page = orphans.page

    async def slow(older: timedelta, after: str = "") -> tuple[list[str], str | None]:
        found = await page(older, after)
        await intend(books, row, claim, path)
        return found

    monkeypatch.setattr(orphans, "page", slow)
    assert await remove_orphans(orphans, shelf) == []  # type: ignore[arg-type]
    assert shelf.removed == []
    assert await marks(books) == 0


async def test_a_visit_that_will_store_at_a_path_waits_until_its_removal_is_over(books: Books) -> None:
    """N9: else storage could carry out the removal after the upload."""
    row, claim, path = await named(books)
    gate = Gate()
    removal = asyncio.create_task(books.orphans().remove([path], HOUR, gate.remove))
    await gate.entered.wait()
    intention = asyncio.create_task(intend(books, row, claim, path))
    await until(lambda: waiting(books), what="the visit waits")
    gate.opened.set()
    assert await removal == [path]
    await intention
    assert (gate.removed, await marks(books)) == ([[path]], 0)
    assert await books.pool.fetchval("SELECT path FROM reconciler.assets") == path


async def test_an_intention_that_is_not_committed_yet_keeps_its_object(books: Books) -> None:
    row, claim, path = await named(books)
    gate = Gate()
    gate.opened.set()
    async with books.pool.acquire() as other, other.transaction():
        await other.execute("DELETE FROM reconciler.orphans WHERE path = $1", path)
        assert await books.orphans().remove([path], HOUR, gate.remove) == []
    await intend(books, row, claim, path)
    assert gate.removed == []


async def test_two_cleanups_at_once_remove_each_object_once(books: Books) -> None:
    await mark(books, "user/image/first_0.png")
    gate, shelf = Gate(), Shelf()
    removal = asyncio.create_task(remove_orphans(books.orphans(), gate))  # type: ignore[arg-type]
    await gate.entered.wait()
    await mark(books, "user/image/second_0.png")
    assert await remove_orphans(books.orphans(), shelf) == ["user/image/second_0.png"]  # type: ignore[arg-type]
    gate.opened.set()
    assert await removal == ["user/image/first_0.png"]
    assert (gate.removed, shelf.removed) == ([["user/image/first_0.png"]], ["user/image/second_0.png"])


@pytest.mark.parametrize("column", ["asset_url", "asset_urls"])
async def test_an_object_that_its_row_shows_again_since_the_table_was_read_stays(books: Books, column: str) -> None:
    _, _, path = await named(books)
    value = f'["{OURS}/{path}"]' if column == "asset_urls" else f"{OURS}/{path}"
    await books.pool.execute(f"UPDATE public.generations SET {column} = $1", value)
    assert await books.orphans().remove([path], HOUR, Gate().remove) == []
    assert await marks(books) == 1


async def test_an_object_of_an_id_that_keys_cannot_hold_is_found_by_its_intention(books: Books) -> None:
    path = f"user/image/strange.{'0' * 32}_0.png"
    await mark(books, path)
    await books.pool.execute(
        "INSERT INTO reconciler.assets (generation_id, task_id, n, path, mime, size, sha256, md5)"
        " VALUES ('strange/', 'task', 0, $1, 'image/png', 1, '', '')",
        path,
    )
    assert await books.orphans().remove([path], HOUR, Gate().remove) == []


async def test_a_delivery_one_of_whose_former_objects_is_removed_is_audited_at_once(books: Books) -> None:
    """N9: where the removal met a delivery after all, the audit finds it now and not within a month."""
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    assert await books.ledger().finish(row, claim, delivered()) == "succeeded"
    await books.set(row.id, "audit_at = now() + interval '30 days'")
    path = f"user/image/{row.id}_1.png"
    await mark(books, path)
    shelf = Shelf()
    async with books.pool.acquire() as other:
        lock = other.transaction()
        await lock.start()
        await other.execute("SELECT FROM reconciler.work FOR UPDATE")
        removal = asyncio.create_task(remove_orphans(books.orphans(), shelf))  # type: ignore[arg-type]
        await until(lambda: waiting(books), what="the row is being written")
        await lock.rollback()
    assert await removal == [path]
    assert (await audit_in(books, row.id) or 1) <= 0


@pytest.mark.parametrize("fault", ["refused", "silent"])
async def test_a_removal_whose_answer_does_not_come_keeps_the_mark_and_has_the_delivery_audited(
    books: Books, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage may carry it out all the same, after the mark is free for a visit."""
    monkeypatch.setattr(module, "REMOVAL_SECONDS", 0.1)
    row, _, path = await named(books)
    await books.set(row.id, "delivered_at = now(), audit_at = now() + interval '30 days'")
    orphans: Any = books.orphans()

    async def refused(_: Sequence[str]) -> None:
        raise Transient("storage is away", code="network")

    with pytest.raises(Transient):
        await orphans.remove([path], HOUR, refused if fault == "refused" else Gate().remove)
    assert await marks(books) == 1
    assert 0 < (await audit_in(books, row.id) or 0) <= module.LATE_SECONDS
