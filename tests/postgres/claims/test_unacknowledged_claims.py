"""Claims whose answer was lost hold no row to the end of a lease."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reconciler.domain.model import Trigger
from reconciler.errors import Transient
from reconciler.postgres.claims import unacknowledged_claims
from reconciler.postgres.claims.claims import Claims
from reconciler.postgres.statement import Statement
from testkit.waiting import until
from tests.postgres.books import Books

WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'reconciler.work'::regclass"


async def lose(books: Books, claims: Claims, monkeypatch: pytest.MonkeyPatch, *ids: str) -> None:
    """Claim these rows and lose the answer."""
    fetch = books.database.fetch

    async def swallowed(sql: str, *args: object) -> Any:
        await fetch(sql, *args)
        raise Transient("the database is away", code="database_away")

    with monkeypatch.context() as patched:
        patched.setattr(books.database, "fetch", swallowed)
        with pytest.raises(Transient):
            await claims.woken(dict.fromkeys(ids, Trigger.NOTIFY))


async def test_only_unacknowledged_claims_are_freed(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unacknowledged_claims, "KNOWN", 0.0)
    known, lost, fresh, anothers = [await books.insert() for _ in range(4)]
    claims = books.claims(term=30)
    (claim,) = await claims.woken({known: Trigger.NOTIFY})
    await lose(books, claims, monkeypatch, lost, fresh)
    await books.claim(anothers, term=30)
    # Another task of this process has just claimed one of them and does not know it yet.
    await books.set(fresh, "lease_until = lease_until + interval '5 seconds'")
    assert claims.unacknowledged.open
    await claims.unacknowledged.settle([claim.lease])
    assert not claims.unacknowledged.open
    work = {name: await books.work(name) or {} for name in (known, lost, fresh, anothers)}
    assert [name for name, one in work.items() if one["lease"] is None] == [lost]
    assert work[lost]["due_in"] <= 0
    assert [one.generation_id for one in await books.claims().due(9)] == [lost]


async def test_no_row_is_freed_while_a_claim_may_still_become_known(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id = await books.insert()
    claims = books.claims(term=30)
    await lose(books, claims, monkeypatch, generation_id)
    await claims.unacknowledged.settle([])
    assert claims.unacknowledged.open
    assert (await books.work(generation_id) or {})["lease"] is not None


async def test_no_statement_is_sent_where_every_claim_was_answered(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = books.claims(term=30)
    await claims.woken({await books.insert(): Trigger.NOTIFY})
    monkeypatch.setattr(books.database, "fetch", None)
    await claims.unacknowledged.settle([])
    assert not claims.unacknowledged.open


async def test_a_claim_that_goes_unanswered_while_others_are_settled_stays_unacknowledged(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unacknowledged_claims, "KNOWN", 0.0)
    claims = books.claims(term=30)
    first, second = await books.insert(), await books.insert()
    await lose(books, claims, monkeypatch, first)
    async with books.pool.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE reconciler.work IN SHARE MODE")
        settling = asyncio.create_task(claims.unacknowledged.settle([]))
        await until(lambda: other.fetchval(WAITS), what="that it is being settled")
        with pytest.raises(Transient):
            await claims.unacknowledged.claimed(Statement("SELECT pg_terminate_backend(pg_backend_pid())"))
    await settling
    assert claims.unacknowledged.open
    await lose(books, claims, monkeypatch, second)
    await claims.unacknowledged.settle([])
    assert not claims.unacknowledged.open
    assert (await books.work(second) or {})["lease"] is None
