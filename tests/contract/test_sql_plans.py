"""No statement of the daemon reads all old rows of the application, however many there are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.schema import introspect
from tests.conftest import Databases, _apart
from tests.contract.life import VIEWS, Life, queued

OLD_ROWS = int(os.environ.get("OLD_ROWS", "100000"))

_SCANS = """
SELECT coalesce(sum(seq_scan), 0)::int, coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int
  FROM pg_stat_xact_user_tables WHERE relid = 'public.generations'::regclass
"""


class Watched:
    """The statements of a `Database`, each followed by the question whether it read the application's whole table."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._scans = 0
        self._read = 0
        self.greedy: list[str] = []

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._connection.fetch(sql, *args)
        scans, read = await self._connection.fetchrow(_SCANS)
        if scans > self._scans or read - self._read > OLD_ROWS // 10:
            self.greedy.append(f"{scans - self._scans} scans, {read - self._read} rows read by {sql}")
        self._scans, self._read = scans, read
        return rows

    async def row(self, sql: str, *args: object) -> asyncpg.Record | None:
        return next(iter(await self.fetch(sql, *args)), None)

    async def write(self, sql: str, *args: object, writes: str) -> asyncpg.Record | None:
        return await self.row(sql, *args)

    async def value(self, sql: str, *args: object) -> Any:
        rows = await self.fetch(sql, *args)
        return rows[0][0] if rows else None

    async def execute(self, sql: str, *args: object) -> None:
        await self.fetch(sql, *args)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Watched]:
        async with self._connection.transaction():
            yield self

    async def run(self, work: Any) -> Any:
        return await work()

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        return await self.row(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        return await self.value(sql, *args)


@pytest.fixture(scope="module")
def large_dsn(postgres: Any, databases: Databases, _template: str) -> Iterator[str]:
    """A migrated database with many old rows: most delivered, some failed, all with their bookkeeping."""

    async def filled(dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(f"""
            ALTER TABLE public.generations DISABLE TRIGGER reconciler_inserted_3;
            INSERT INTO public.generations (user_id, kind, model_key, task_id, status, asset_url, prompt, created_at)
            SELECT gen_random_uuid(), 'image', 'flux', 'old-' || n, CASE n % 20 WHEN 0 THEN 'failed' ELSE 'success' END,
                   CASE n % 20 WHEN 0 THEN NULL ELSE 'https://ours/' || n END, repeat('a cat ', 10),
                   now() - interval '1 day' - n * interval '25 seconds'
              FROM generate_series(1, {OLD_ROWS}) AS n;
            INSERT INTO reconciler.work (generation_id, seen_status, seen_task, delivered_at)
            SELECT id::text, status, task_id, created_at + interval '1 minute' FROM public.generations;
            ALTER TABLE public.generations ENABLE TRIGGER reconciler_inserted_3;
        """)
        await connection.execute("ANALYZE public.generations, reconciler.work")
        await connection.close()

    with databases.new(_template) as name:
        _apart(lambda: filled(postgres.dsn(name)))
        yield postgres.dsn(name)


@pytest.fixture
async def connection(large_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(large_dsn)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


@pytest.mark.soak
async def test_the_watch_sees_a_statement_that_reads_everything(connection: Any) -> None:
    watched = Watched(connection)
    await watched.fetch("SELECT count(*) FROM public.generations WHERE prompt LIKE '%dog%'")
    assert len(watched.greedy) == 1
    await watched.fetch("SELECT FROM public.generations WHERE id = '00000000-0000-4000-8000-000000000000'")
    assert len(watched.greedy) == 1


async def test_nothing_that_the_daemon_says_reads_the_whole_table(connection: Any) -> None:
    """With the indexes of plain `migrate`."""
    await connection.execute(
        "DROP INDEX public.generations_task_id, public.generations_user_id_created_at, public.generations_created_at"
    )
    watched = Watched(connection)
    life = Life(watched, await introspect(connection))
    delivered, failed, resting, left = ids = await queued(connection, 4)
    watched._scans, watched._read = await connection.fetchrow(_SCANS)
    await life.spend(ids)
    await life.deliver(delivered)
    await life.fail(failed)
    await life.rest(resting)
    await life.order("among-many")
    await life.tell()
    claim, row = await life.claim(left)
    await life.ledger.leave(row, claim, "cancelled")
    assert watched.greedy == []


async def test_what_was_lost_is_found_among_all_the_old_rows(connection: Any) -> None:
    lost = await queued(connection, 3)
    unhealed = await connection.fetchval(
        "INSERT INTO public.generations (status, task_id) VALUES ('success', 'unhealed') RETURNING id::text"
    )
    life = Life(Watched(connection), await introspect(connection))
    assert await life.claims.discover() == 4
    assert {claim.generation_id for claim in await life.claims.due(100)} == {*lost, unhealed}
    assert await life.claims.discover() == 0


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "storage_usage"])
async def test_no_monitoring_view_reads_the_whole_table(connection: Any, view: str) -> None:
    await queued(connection, 3)
    watched = Watched(connection)
    watched._scans, watched._read = await connection.fetchrow(_SCANS)
    await watched.fetch(f"SELECT * FROM reconciler.{view}")
    assert watched.greedy == []


async def test_the_index_of_the_sweep_stays_small(connection: Any) -> None:
    # The tests before have left entries that only VACUUM would take.
    await connection.execute("REINDEX INDEX public.generations_reconciler_open")
    table, index = await connection.fetchrow(
        "SELECT pg_table_size('public.generations'), pg_relation_size('public.generations_reconciler_open')"
    )
    assert index < table / 500
