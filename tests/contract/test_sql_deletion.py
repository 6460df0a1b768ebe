"""Old rows are deleted in short statements that read no row twice and hold no lock for long, however many there are.

MANY_OLD says how many failed rows and events there are. The figures are printed with `-s`; docs/OPERATIONS.md has
those of a million.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg

from reconciler.postgres.pool import Database
from reconciler.postgres.retention import Retention
from reconciler.postgres.schema import introspect
from reconciler.worker.periodic.retention import delete_failed

MANY_OLD = int(os.environ.get("MANY_OLD", "20000"))

_OLD = f"""
ALTER TABLE public.generations DISABLE TRIGGER reconciler_inserted_3;
INSERT INTO public.generations (user_id, kind, model_key, task_id, status, prompt, created_at, updated_at)
SELECT gen_random_uuid(), 'image', 'flux', 'old-' || n, 'failed', repeat('a cat ', 10),
       now() - interval '31 days' - n * interval '2 seconds', now() - interval '31 days'
  FROM generate_series(1, {MANY_OLD}) AS n;
ALTER TABLE public.generations ENABLE TRIGGER reconciler_inserted_3;
INSERT INTO reconciler.work (generation_id, seen_status, seen_task)
SELECT id::text, status, task_id FROM public.generations;
INSERT INTO reconciler.events (key, generation_id, kind, payload, at, announced_at)
SELECT 'old-' || n, 'g' || n, 'failed', '{{}}', now() - interval '31 days', now()
  FROM generate_series(1, {MANY_OLD}) AS n;
ANALYZE public.generations, reconciler.work, reconciler.events, reconciler.assets;
"""

_READ = """
SELECT relname, seq_scan::int AS scans, (seq_tup_read + coalesce(idx_tup_fetch, 0))::int AS rows
  FROM pg_stat_user_tables WHERE relid IN ('public.generations'::regclass, 'reconciler.events'::regclass)
"""


@dataclass
class Shop:
    """The application, which goes on meanwhile: an order and a change of it, again and again."""

    waits: list[float] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def open(self, dsn: str) -> AsyncIterator[None]:
        connection = await asyncpg.connect(dsn)
        selling = asyncio.create_task(self._sell(connection))
        try:
            yield
        finally:
            selling.cancel()
            await asyncio.gather(selling, return_exceptions=True)
            await connection.close()

    async def _sell(self, connection: Any) -> None:
        while True:
            began = time.monotonic()
            made = await connection.fetchval(
                "INSERT INTO public.generations (status, task_id) VALUES ('queued', 'new') RETURNING id"
            )
            self.waits.append(time.monotonic() - began)
            began = time.monotonic()
            await connection.execute("UPDATE public.generations SET status = 'cancelled' WHERE id = $1", made)
            self.waits.append(time.monotonic() - began)


async def read(connection: Any) -> dict[str, tuple[int, int]]:
    """How often each table was read as a whole so far, and how many of its rows were read."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    return {row["relname"]: (row["scans"], row["rows"]) for row in await connection.fetch(_READ)}


async def test_what_has_grown_old_goes_in_short_statements_that_do_not_read_the_rest(dsn: str) -> None:
    watching = await asyncpg.connect(dsn)
    await watching.execute(_OLD)
    before = await read(watching)
    database, shop = Database(dsn, size=1), Shop()
    upkeep = Retention(database, await introspect(watching), term=30)
    began = time.monotonic()
    async with shop.open(dsn):
        assert await delete_failed(upkeep, timedelta(days=30)) == MANY_OLD
        failed = time.monotonic()
        while await watching.fetchval("SELECT min(id) FROM reconciler.events") is not None:
            await upkeep.traces()
        ended = time.monotonic()
    await database.execute("SELECT pg_stat_force_next_flush()")
    await database.close()
    sys.stdout.write(
        f"\n{MANY_OLD} failed rows in {failed - began:.1f} s, {MANY_OLD} events in {ended - failed:.1f} s;"
        f" {len(shop.waits)} writes of the application meanwhile, the longest {1000 * max(shop.waits):.0f} ms\n"
    )
    after = await read(watching)
    await watching.close()
    for table, (scans, rows) in after.items():
        assert scans == before[table][0], f"{table} was read as a whole"
        assert rows - before[table][1] < 4 * MANY_OLD + 2 * len(shop.waits), f"{table} was read again and again"
