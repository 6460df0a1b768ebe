"""The cost of the most frequent statements: plans over large tables, and updates that touch no index."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.postgres.claims.claims import _NEXT, FIRST_LOOK, Claims
from reconciler.postgres.claims.deleted_rows import MOST
from reconciler.postgres.claims.due_floor import DUE_FLOOR
from reconciler.postgres.claims.queues import WEIGHTS
from reconciler.postgres.claims.unacknowledged_claims import _FREE_UNKNOWN
from reconciler.postgres.ledger import ledger_sql
from reconciler.postgres.ledger.ledger import _facts, _fence
from reconciler.postgres.pool import Database
from tests.postgres.books import Books, opened

ROWS = 20_000
TERM = timedelta(seconds=30)
FILL = f"""
INSERT INTO public.generations (status, task_id, asset_url, kind)
SELECT CASE WHEN n % 10 = 0 THEN 'generating' ELSE 'success' END, 'task-' || n,
       CASE WHEN n % 10 = 0 THEN NULL ELSE 'https://project.supabase.co/' || n END, 'image'
  FROM generate_series(1, {ROWS}) n;
INSERT INTO reconciler.work (generation_id, due_at, early_at, seen_status, seen_task, sources, key_hash, why)
SELECT id::text, CASE WHEN status = 'generating' THEN now() + (random() - 0.1) * interval '1 hour' END,
       CASE WHEN status = 'generating' THEN now() + interval '1 day' END, status, task_id,
       ARRAY['https://tempfile.aiquickdraw.com/r/' || id], md5(id::text), 'KIE says waiting'
  FROM public.generations;
ANALYZE;
"""


@pytest.fixture
async def books(dsn: str) -> AsyncIterator[Books]:
    async with opened(dsn) as found:
        await found.pool.execute(FILL)
        await found.pool.execute("VACUUM ANALYZE public.generations")
        await found.pool.execute("VACUUM ANALYZE reconciler.work")
        yield found


def nodes(plan: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield plan["Node Type"], plan.get("Relation Name", ""), plan.get("Index Name", "")
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def planned(books: Books, sql: str, *args: object) -> list[tuple[str, str, str]]:
    """Return the nodes of a statement's plan: kind, table, index."""
    async with books.pool.acquire() as connection:
        found = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *args))
    return list(nodes(found[0]["Plan"]))


def scanned(plan: list[tuple[str, str, str]]) -> set[str]:
    return {table for kind, table, _ in plan if kind == "Seq Scan"}


def due(claims: Claims, *, floor: datetime | None = None) -> tuple[Any, ...]:
    """Return the claim of due rows and its values."""
    shares = {"queues": list(WEIGHTS), "weights": list(WEIGHTS.values()), "held": [0] * len(WEIGHTS)}
    return claims._due(term=TERM, instance=uuid.uuid4(), limit=8, floor=floor, **shares)


async def test_every_claim_of_due_rows_reads_the_index_of_due_times(books: Books) -> None:
    own = books.claims()
    early = own._early(term=TERM, instance=uuid.uuid4(), limit=8, floor=None)
    for statement, name in ((due(own), "work_line"), (early, "work_due_at")):
        plan = await planned(books, *statement)
        assert name in {index for _, _, index in plan}, statement[0]
        assert scanned(plan) == set(), statement[0]


async def test_a_claim_reads_a_few_rows_of_each_line_however_many_are_overdue(books: Books) -> None:
    claims = books.claims()
    few = await passed(books, *due(claims))
    await books.pool.execute(
        """UPDATE reconciler.work SET looks = (random() * 2)::int, misses = (random() * 5)::int,
                  due_at = now() - random() * interval '1 hour'"""
    )
    await books.pool.execute("VACUUM ANALYZE reconciler.work")
    plan = await planned(books, *due(claims))
    assert {kind for kind, table, _ in plan if table == "work"} <= {"Index Scan", "Tid Scan", "ModifyTable"}
    assert await passed(books, *due(claims)) < few + 200


async def test_unacknowledged_claims_are_searched_among_rows_in_flight(books: Books) -> None:
    plan = await planned(books, *_FREE_UNKNOWN(instance=uuid.uuid4(), known=[uuid.uuid4()], term=TERM, age=3.0))
    assert "work_due_at" in {index for _, _, index in plan}
    assert scanned(plan) == set()


async def test_due_times_are_read_in_order_and_not_sorted(books: Books) -> None:
    for statement in (_NEXT(floor=None), DUE_FLOOR()):
        plan = await planned(books, *statement)
        assert "Sort" not in {kind for kind, _, _ in plan}, statement[0]


async def test_n4_times_that_no_clock_could_write_are_read_at_the_ends_of_their_indexes(books: Books) -> None:
    await books.pool.execute(
        "UPDATE reconciler.work SET audit_at = now() + random() * interval '30 days', delivered_at = now()"
        " WHERE due_at IS NULL; "
        "INSERT INTO reconciler.events (key, generation_id, kind, payload, next_at)"
        " SELECT n::text, n::text, 'failed', '{}', now() + random() * interval '1 hour' FROM generate_series(1, 5000) n"
    )
    for table in ("work", "events"):
        await books.pool.execute(f"VACUUM ANALYZE reconciler.{table}")
    plan = await planned(books, *DUE_FLOOR())
    assert {"work_due_at", "work_audit_at", "work_delivered_at", "events_due"} <= {index for _, _, index in plan}
    assert scanned(plan) & {"work", "events"} == set()


async def test_a_wake_reads_the_rows_it_names(books: Books) -> None:
    claims = books.claims()
    name = await books.pool.fetchval("SELECT id::text FROM public.generations LIMIT 1")
    wakes = {"ids": [name], "leases": [uuid.uuid4()], "triggers": ["notify"]}
    room = {"limit": 5, "ended": 1, "first_look": FIRST_LOOK}
    plan = await planned(
        books, *claims._woken.present(term=TERM, instance=uuid.uuid4(), **wakes, **room, **claims._eligible)
    )
    assert scanned(plan) == set()


async def test_the_sweep_reads_the_index_of_rows_in_flight(books: Books) -> None:
    claims = books.claims()
    plan = await planned(books, *claims._discovery._discover.present(term=TERM, **claims._eligible))
    assert "generations" not in scanned(plan)
    assert "generations_reconciler_open" in {index for _, _, index in plan}


async def test_deleted_rows_are_looked_up_by_their_keys_however_many_are_overdue(books: Books) -> None:
    await books.pool.execute("UPDATE reconciler.work SET due_at = now() - interval '1 hour'")
    await books.pool.execute("ANALYZE reconciler.work")
    plan = await planned(books, *books.claims().deleted_rows._forget.present(term=TERM, most=MOST))
    assert "generations" not in scanned(plan)
    assert "generations_pkey" in {index for _, _, index in plan}


async def test_offers_are_read_by_their_generation_and_only_for_rows_without_a_task(books: Books) -> None:
    await books.pool.execute(
        """INSERT INTO reconciler.callbacks (task_id, generation_id, body)
           SELECT 'task-' || n, gen_random_uuid()::text, '{}' FROM generate_series(1, 2000) n"""
    )
    await books.pool.execute("VACUUM ANALYZE reconciler.callbacks")
    name = await books.pool.fetchval("SELECT id::text FROM public.generations WHERE status = 'generating' LIMIT 1")
    claims = books.claims()
    read = ledger_sql.read(books.table)
    for statement in (read(ids=[name]), claims._discovery._discover.present(term=TERM, **claims._eligible)):
        plan = await planned(books, *statement)
        assert "callbacks_generation" in {index for _, _, index in plan}, statement[0]
        assert "callbacks" not in scanned(plan), statement[0]
    async with books.pool.acquire() as connection:
        sql = f"EXPLAIN (ANALYZE, FORMAT JSON) {read.text}"
        found = json.loads(await connection.fetchval(sql, [name]))
    assert runs(found[0]["Plan"], "callbacks") == 0


def runs(plan: dict[str, Any], table: str) -> int:
    """Return how often the plan read this table."""
    own = int(plan["Actual Loops"]) if plan.get("Relation Name") == table else 0
    return own + sum(runs(below, table) for below in plan.get("Plans", ()))


async def test_a_visit_finds_every_row_by_its_key(books: Books) -> None:
    sql = "SELECT id::text FROM public.generations WHERE status = 'generating' LIMIT 1"
    row, claim = await books.held(await books.pool.fetchval(sql))
    facts = {**_fence(claim), **_facts(row)}
    rest = ledger_sql.rest(books.table, set_generating=True)
    statements = [
        ledger_sql.read(books.table)(ids=[row.id]),
        ledger_sql.NOTE(**facts),
        rest(
            **facts,
            woken=0,
            until=datetime.now(UTC),
            early=datetime.now(UTC),
            locked_write=None,
            write_at=None,
            decided_at=None,
            lock_wait="100ms",
        ),
        ledger_sql.LEAVE(**facts),
    ]
    for statement in statements:
        assert scanned(await planned(books, *statement)) & {"generations", "work"} == set(), statement[0]


async def passed(books: Books, sql: str, *args: object) -> int:
    """Return how many pages a statement read."""
    async with books.pool.acquire() as connection, connection.transaction():
        found = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *args))
        return int(found[0]["Plan"]["Shared Hit Blocks"]) + int(found[0]["Plan"]["Shared Read Blocks"])


async def test_under_a_long_snapshot_a_claim_passes_only_rows_due_since_the_last_sweep(books: Books) -> None:
    """F13: the snapshot keeps every former due time in the index."""
    await books.pool.execute("UPDATE reconciler.work SET due_at = now() - interval '1 hour' WHERE due_at IS NOT NULL")
    claims = books.claims()
    async with books.pool.acquire() as dump, dump.transaction(isolation="repeatable_read"):
        await dump.fetchval("SELECT count(*) FROM reconciler.work")
        for at in [*["now() - (3 + 47 * random()) * interval '1 minute'"] * 5, "now() + interval '1 second'"]:
            await books.pool.execute(f"UPDATE reconciler.work SET due_at = {at} WHERE due_at IS NOT NULL")
        without = await passed(books, *due(claims))
        await claims.discover()
        behind = await passed(books, *due(claims, floor=claims._floor))
    assert behind * 10 < without


async def test_a_row_due_before_the_floor_is_found_after_the_next_sweep(books: Books) -> None:
    await books.pool.execute("UPDATE reconciler.work SET due_at = NULL")
    claims = books.claims()
    await claims.discover()
    name = await books.pool.fetchval("SELECT generation_id FROM reconciler.work LIMIT 1")
    await books.pool.execute("UPDATE reconciler.work SET due_at = '-infinity' WHERE generation_id = $1", name)
    await claims.discover()
    assert [claim.generation_id for claim in await claims.due(1)] == [name]


async def updated(database: Database) -> tuple[int, int]:
    """Return the updates of `work` so far: all, and those that touched no index."""
    await database.execute("SELECT pg_stat_force_next_flush()")
    counts = """SELECT pg_stat_get_tuples_updated(c), pg_stat_get_tuples_hot_updated(c)
                  FROM (SELECT 'reconciler.work'::regclass::oid) AS t (c)"""
    row = await database.row(counts)
    assert row is not None
    return row[0], row[1]


async def test_leases_and_facts_are_written_without_touching_an_index(dsn: str, books: Books) -> None:
    """F13: bloat of indexes; the due time alone is indexed and may cost one."""
    # One connection: each has counts of its own.
    books.database = Database(dsn, size=1)
    if not await books.database.value("SELECT to_regproc('pg_stat_force_next_flush') IS NOT NULL"):
        pytest.skip("this PostgreSQL cannot be asked to publish its statistics now")
    claims, ledger = books.claims(), books.ledger()

    async def changes(write: Callable[[], Awaitable[object]]) -> tuple[int, int]:
        before = await updated(books.database)
        await write()
        after = await updated(books.database)
        return after[0] - before[0], after[1] - before[1]

    taken = await claims.due(50)
    assert len(taken) == 50
    row = (await ledger.read([taken[0].generation_id]))[taken[0].generation_id].row
    noted = replace(row, polls=9, failures=3, reason="KIE: rate_limited", polled_at=datetime.now(UTC))
    assert await changes(lambda: claims.renew(taken)) == (50, 50)
    assert await changes(lambda: claims.due(50)) == (50, 50)
    assert await changes(lambda: ledger.note(noted, taken[0])) == (1, 1)
    await books.database.close()
