"""PostgreSQL's notification queue is full (F4): a NOTIFY cannot commit until another client's listener ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from reconciler.demo.embedded_postgres import Postgres
from reconciler.demo.postgres_programs import wheel_binaries
from reconciler.errors import Transient
from reconciler.postgres.listener import Listener
from reconciler.postgres.migrations.migrate import migrate
from reconciler.worker.create.create_task import OutcomeUnknown
from testkit.waiting import until
from tests.conftest import _apart
from tests.postgres.books import delivered
from tests.worker.create.test_create_task_cut import TASK, only, slowly, status, under_way
from tests.worker.rig import Rig, opened_rig


@pytest.fixture(scope="module")
def small() -> Iterator[Postgres]:
    """A server with a small notification queue."""
    with Postgres.start(bin_dir=wheel_binaries(), settings={"max_notify_queue_pages": "64", "jit": "off"}) as server:
        _apart(lambda: migrate(server.dsn(), application=True))
        yield server


@pytest.fixture
async def narrow(small: Postgres, tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened_rig(small.dsn(), tmp_path) as rig:
        await rig.pool.execute("TRUNCATE public.generations, reconciler.work, reconciler.assets, reconciler.requests")
        yield rig


async def fill(rig: Rig) -> None:
    for _ in range(1000):
        await rig.pool.execute("SELECT pg_notify('x', repeat('x', 7000) || random())")


@asynccontextmanager
async def full(rig: Rig) -> AsyncIterator[None]:
    """Fill the queue while another client listens in an open transaction."""
    stranger = await asyncpg.connect(rig.dsn)
    try:
        for statement in ("LISTEN nothing", "BEGIN", "SELECT 1"):
            await stranger.execute(statement)
        with pytest.raises(asyncpg.ProgramLimitExceededError):
            await fill(rig)
        yield
    finally:
        await stranger.close()

    async def room() -> bool:
        return bool(await rig.pool.fetchval("SELECT pg_notification_queue_usage() < 0.5"))

    await until(room, what="room in the queue")


async def test_the_listener_survives_a_full_queue_and_hears_again(narrow: Rig) -> None:
    canaries: list[float | None] = []
    listener = Listener(
        narrow.dsn,
        narrow.books.database,
        on_generation=lambda _: None,
        on_connected=lambda: None,
        on_canary=canaries.append,
        every=0.1,
        within=5,
    )
    running = asyncio.create_task(listener.run())
    try:
        await until(lambda: canaries and canaries[-1] is not None, what="the first canary")
        async with full(narrow):
            await until(lambda: running.done() or canaries[-1] is None, what="a canary that is lost")
            assert not running.done()
        await until(lambda: running.done() or canaries[-1] is not None, what="a canary that comes back")
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_success_that_cannot_notify_is_not_taken_for_rejected_by_the_table(narrow: Rig) -> None:
    books = narrow.books
    row, claim = await books.held(await books.insert())
    row = await books.stored(row, claim)
    async with full(narrow):
        with pytest.raises(Transient):
            await books.ledger().finish(row, claim, delivered())
    assert await books.ledger().finish(row, claim, delivered()) == "succeeded"


async def test_a_paid_tasks_id_is_written_as_soon_as_there_is_room(
    narrow: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.worker.create.create_task.WRITING", 0.3)
    async with slowly(narrow) as (kie, _, creation):
        asking = await under_way(kie, creation)
        async with full(narrow):
            kie.may_answer.set()
            assert isinstance(await asking, OutcomeUnknown)
        await until(lambda: status(narrow, "generating"), what="the task id to be written")
        assert (await only(narrow))["task_id"] == TASK
