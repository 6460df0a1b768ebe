"""A write whose lock the application holds: tried briefly, nothing written, and the error says whose lock it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from reconciler.domain.model import Fail, Row
from reconciler.errors import Locked
from reconciler.postgres.claims.claims import Claim
from reconciler.postgres.ledger.ledger import Ledger
from testkit.waiting import until
from tests.postgres.books import Books, delivered, opened, resting

Write = Callable[[Ledger, Row, Claim], Awaitable[object]]

WRITES: dict[str, Write] = {
    "generating": lambda ledger, row, claim: ledger.rest(row, claim, resting(begun=True)),
    "finish": lambda ledger, row, claim: ledger.finish(row, claim, delivered()),
    "fail": lambda ledger, row, claim: ledger.fail(row, claim, Fail("refused")),
}
WALLET = "CREATE TABLE public.wallet (left_over int); INSERT INTO public.wallet VALUES (0)"
SPEND = "BEGIN UPDATE public.wallet SET left_over = left_over + 1; {} END"
HOOK = f"""CREATE OR REPLACE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void
LANGUAGE plpgsql AS $$ {SPEND.format("")} $$"""
TRIGGER = f"""CREATE FUNCTION public.spend() RETURNS trigger LANGUAGE plpgsql AS $$ {SPEND.format("RETURN NEW;")} $$;
CREATE TRIGGER spend BEFORE UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.spend()"""
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
async def own_books(dsn: str) -> AsyncIterator[Books]:
    """Books whose database the test may change."""
    async with opened(dsn) as found:
        await found.pool.execute(WALLET)
        yield found


async def ready(books: Books) -> tuple[Row, Claim]:
    row, claim = await books.held(await books.insert())
    return await books.stored(row, claim), claim


SETTING = """CREATE TABLE public.seen (by text, lock_wait text);
CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.seen VALUES (TG_OP, current_setting('lock_timeout')); RETURN NEW; END $$;
CREATE TRIGGER see BEFORE INSERT OR UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.see();
CREATE OR REPLACE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void
LANGUAGE sql AS $$ INSERT INTO public.seen VALUES ('hook', current_setting('lock_timeout')) $$"""


async def seen(books: Books) -> list[tuple[str, str]]:
    """Return what triggers and hook have seen: which of them, and how long it would wait for a lock."""
    return [(row["by"], row["lock_wait"]) for row in await books.pool.fetch("SELECT * FROM public.seen")]


@asynccontextmanager
async def locking(books: Books, what: str) -> AsyncIterator[asyncpg.Connection]:
    """Another session locks rows, and does not end of itself."""
    async with books.pool.acquire() as application, application.transaction():
        await application.execute(what)
        yield application


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_of_a_locked_row_is_tried_once_and_changes_nothing(books: Books, write: str) -> None:
    row, claim = await ready(books)
    before = await books.everything()
    async with locking(books, "SELECT FROM public.generations FOR UPDATE"):
        with pytest.raises(Locked, match=r"public\.generations waits for a lock on a row of generations"):
            await WRITES[write](books.ledger(), row, claim)
    assert await books.everything() == before
    assert books.database.trouble is None
    await WRITES[write](books.ledger(), row, claim)


async def test_triggers_and_hook_wait_as_briefly_as_the_write_and_nothing_after_it_does(own_books: Books) -> None:
    held = [await ready(own_books) for _ in range(3)]
    await own_books.pool.execute(SETTING)
    for (row, claim), write in zip(held, WRITES.values(), strict=True):
        await write(own_books.ledger(), row, claim)
    assert await seen(own_books) == [("UPDATE", "100ms")] * 3 + [("hook", "100ms")]
    assert await own_books.database.value("SELECT current_setting('lock_timeout')") == "10s"


async def test_a_task_id_is_not_waited_for_either(books: Books) -> None:
    row, claim = await books.held(await books.insert(task_id=None))
    async with locking(books, "SELECT FROM public.generations FOR UPDATE"):
        with pytest.raises(Locked):
            await books.ledger().adopt(row, claim, "task-9")
    assert await books.ledger().adopt(row, claim, "task-9")


async def test_an_address_that_has_to_change_is_not_waited_for_either(books: Books) -> None:
    row, claim = await ready(books)
    await books.ledger().finish(row, claim, delivered())
    await books.change(row.id, "asset_urls = NULL")
    await books.set(row.id, "reopened = true, due_at = now()")
    row, claim = await books.held(row.id)
    for write in (books.ledger().repair, books.ledger().extend):
        async with locking(books, "SELECT FROM public.generations FOR UPDATE"):
            with pytest.raises(Locked):
                await write(row, claim, delivered())


async def test_a_hook_that_waits_for_a_wallet_rolls_the_failure_back_and_names_the_wallet(own_books: Books) -> None:
    await own_books.pool.execute(HOOK)
    row, claim = await ready(own_books)
    before = await own_books.everything()
    async with locking(own_books, "SELECT FROM public.wallet FOR UPDATE"):
        with pytest.raises(Locked, match=r"reconciler\.on_failed waits for a lock on a row of wallet"):
            await own_books.ledger().fail(row, claim, Fail("refused"))
    assert await own_books.everything() == before
    assert await own_books.ledger().fail(row, claim, Fail("refused")) == "failed"
    assert await own_books.pool.fetchval("SELECT left_over FROM public.wallet") == 1


async def test_a_trigger_that_waits_for_a_wallet_names_the_wallet(own_books: Books) -> None:
    await own_books.pool.execute(TRIGGER)
    row, claim = await ready(own_books)
    async with locking(own_books, "SELECT FROM public.wallet FOR UPDATE"):
        with pytest.raises(Locked, match="a row of wallet"):
            await own_books.ledger().finish(row, claim, delivered())
    assert await own_books.ledger().finish(row, claim, delivered()) == "succeeded"


@pytest.mark.parametrize("write", WRITES)
async def test_our_own_row_is_waited_for_as_long_as_ever(books: Books, write: str) -> None:
    """A renewal or a wake that holds our row for a moment is no lock of the application."""
    row, claim = await ready(books)
    async with locking(books, "SELECT FROM reconciler.work FOR UPDATE"):
        writing = asyncio.ensure_future(WRITES[write](books.ledger(lock_wait=0.001), row, claim))
        await until(lambda: books.pool.fetchval(WAITS), what="the write waits for our row")
    await writing


async def test_a_deadlock_with_the_application_ends_with_our_step_back(own_books: Books) -> None:
    """The application locks its wallet and then the row, we lock the row and then the wallet."""
    await own_books.pool.execute(HOOK)
    row, claim = await ready(own_books)
    async with locking(own_books, "SELECT FROM public.wallet FOR UPDATE") as application:
        failing = asyncio.ensure_future(own_books.ledger(lock_wait=0.5).fail(row, claim, Fail("refused")))
        await until(lambda: own_books.pool.fetchval(WAITS), what="the hook waits for the wallet")
        await application.execute("UPDATE public.generations SET prompt = 'x'")
    with pytest.raises(Locked):
        await failing
    assert await own_books.ledger().fail(row, claim, Fail("refused")) == "failed"
    assert await own_books.pool.fetchval("SELECT left_over FROM public.wallet") == 1


async def test_no_more_than_two_failures_are_written_at_once(own_books: Books) -> None:
    """A slow hook must leave connections to the deliveries."""
    await own_books.pool.execute(HOOK)
    held = [await ready(own_books) for _ in range(5)]
    ledger = own_books.ledger(lock_wait=30)
    async with locking(own_books, "SELECT FROM public.wallet FOR UPDATE"):
        failing = [asyncio.ensure_future(ledger.fail(row, claim, Fail("refused"))) for row, claim in held[:4]]
        await until(lambda: two_wait(own_books), what="two hooks that wait")
        row, claim = held[4]
        assert await ledger.finish(row, claim, delivered()) == "succeeded"
        assert await own_books.pool.fetchval(WAITS) == 2
    assert await asyncio.gather(*failing) == ["failed"] * 4


async def two_wait(books: Books) -> bool:
    waiting: int = await books.pool.fetchval(WAITS)
    return waiting == 2
