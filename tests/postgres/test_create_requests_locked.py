"""An order whose row waits for a lock of the application: tried briefly, and nothing is half written."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from reconciler.domain.model import Trigger
from reconciler.errors import Locked
from reconciler.metrics import Metrics
from reconciler.postgres.create_requests import CreateRequests, Requester
from reconciler.worker.create.record_outcome import OutcomeRecorder
from tests.postgres.books import Books, opened
from tests.postgres.ledger.test_ledger_locked import HOOK, SETTING, SPEND, WALLET, locking, seen
from tests.postgres.test_create_requests import KEY, begin, create_requests

CHARGE = f"""CREATE FUNCTION public.charge() RETURNS trigger LANGUAGE plpgsql AS $$ {SPEND.format("RETURN NEW;")} $$;
CREATE TRIGGER charge BEFORE INSERT ON public.generations FOR EACH ROW EXECUTE FUNCTION public.charge()"""
LOCK = "SELECT FROM public.wallet FOR UPDATE"


@pytest.fixture
async def books(dsn: str) -> AsyncIterator[Books]:
    async with opened(dsn) as found:
        await found.pool.execute(WALLET)
        yield found


async def test_an_order_whose_trigger_waits_for_a_wallet_is_not_begun_and_leaves_its_key_free(books: Books) -> None:
    await books.pool.execute(CHARGE)
    requester = Requester("shop", "order-1")
    async with locking(books, LOCK):
        with pytest.raises(Locked, match=r"the INSERT into public\.generations waits for a lock on a row of wallet"):
            await begin(books, requester=requester)
    assert await books.pool.fetchval("SELECT count(*) FROM public.generations") == 0
    assert await begin(books, requester=requester)
    assert await books.pool.fetchval("SELECT left_over FROM public.wallet") == 1


async def test_the_id_of_a_paid_task_is_not_waited_for_and_is_written_by_a_later_try(books: Books) -> None:
    generation_id = await begin(books)
    requests = create_requests(books)
    async with locking(books, "SELECT FROM public.generations FOR UPDATE"):
        with pytest.raises(Locked, match=r"public\.generations waits for a lock"):
            await requests.save(generation_id, "task-7", key_hash=KEY, dialect="market")
    state = await requests.save(generation_id, "task-7", key_hash=KEY, dialect="market")
    assert state is not None
    assert state.task_id == "task-7"


async def test_the_triggers_of_an_order_wait_for_locks_as_briefly_as_its_writes(books: Books) -> None:
    await books.pool.execute(SETTING)
    await create_requests(books).save(await begin(books), "task-7", key_hash=KEY, dialect="market")
    assert await seen(books) == [("INSERT", "300ms"), ("UPDATE", "300ms")]


async def test_a_refused_order_whose_refund_waits_is_left_to_the_tries_of_locked_rows(books: Books) -> None:
    await books.pool.execute(HOOK)
    generation_id = await begin(books)
    requests: CreateRequests = create_requests(books)
    claims = books.claims()
    recorder = OutcomeRecorder(requests, claims, books.ledger(), Metrics())
    async with locking(books, LOCK):
        with pytest.raises(Locked):
            await recorder._fail(generation_id, "no credits")
    work = await books.work(generation_id)
    assert work is not None
    assert (work["lease"], work["why"].startswith("reconciler.on_failed waits")) == (None, True)
    await books.set(generation_id, "write_at = now()")
    assert [claim.generation_id for claim in await claims.locked(2)] == [generation_id]
    assert await claims.woken({generation_id: Trigger.SYNC}) == []
