"""A page is read from an index at any size of the table: the plans that PostgreSQL makes for many rows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from reconciler.postgres.pool import Database
from reconciler.postgres.reports.generation_list import GenerationList, cursor
from reconciler.postgres.reports.reports import ReportScope
from reconciler.postgres.schema import introspect

FILL = """
INSERT INTO public.generations (user_id, status, task_id, kind, asset_url, created_at)
SELECT md5((n % 200)::text)::uuid, CASE WHEN n % 400 = 0 THEN 'generating' ELSE 'success' END, 'task-' || n, 'image',
       'https://ours.example/' || n, now() - n * interval '1 minute' FROM generate_series(1, 40000) AS n;
INSERT INTO reconciler.work (generation_id, seen_task) SELECT id::text, task_id FROM public.generations;
"""


class Explaining(Database):
    """Runs every statement, and keeps its plan."""

    plan: dict[str, Any]

    async def fetch(self, sql: str, *args: object) -> Any:
        found = await super().fetch(f"EXPLAIN (FORMAT JSON) {sql}", *args)
        self.plan = json.loads(found[0][0])[0]["Plan"]
        return await super().fetch(sql, *args)

    def nodes(self, plan: dict[str, Any] | None = None) -> Iterator[tuple[str, str, str]]:
        plan = plan or self.plan
        yield plan["Node Type"], plan.get("Relation Name", ""), plan.get("Index Name", "")
        for below in plan.get("Plans", ()):
            yield from self.nodes(below)

    def reads(self, index: str) -> None:
        """The statement read this index, sorted no more than a page, and no table from end to end."""
        found = list(self.nodes())
        assert index in {name for _, _, name in found}, found
        assert {table for kind, table, _ in found if kind == "Seq Scan"} & {"generations", "work"} == set(), found


@pytest.fixture
async def database(dsn: str, pool: Any) -> AsyncIterator[Explaining]:
    await pool.execute(FILL)
    await pool.execute("VACUUM ANALYZE public.generations")
    await pool.execute("VACUUM ANALYZE reconciler.work")
    database = Explaining(dsn, size=1)
    yield database
    await database.close()


async def test_every_page_is_read_from_an_index(pool: Any, database: Explaining) -> None:
    async with pool.acquire() as connection:
        listing = GenerationList(database, await introspect(connection), ReportScope())
    user = await pool.fetchval("SELECT user_id::text FROM public.generations LIMIT 1")

    hers = await listing.page(user, limit=20)
    database.reads("generations_user_id_created_at")
    assert len(await listing.page(user, after=cursor(hers[-1]), limit=20)) == 20
    database.reads("generations_user_id_created_at")

    everybodys = await listing.page(None, limit=20)
    database.reads("generations_created_at")
    assert len(await listing.page(None, after=cursor(everybodys[-1]), limit=20)) == 20
    database.reads("generations_created_at")

    assert len(await listing.stuck(None, limit=20)) == 20
    database.reads("generations_reconciler_open")
    assert await listing.one(hers[0].id, user)
    database.reads("generations_pkey")
    assert await listing.of_task(hers[0].task_id or "", user)
    assert {table for kind, table, _ in database.nodes() if kind == "Seq Scan"} <= {"pace"}
