"""The details of one generation: row, bookkeeping, receipts, events, callbacks, holder; with any columns."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import migrate
from reconciler.postgres.pool import Database
from reconciler.postgres.records import as_key
from reconciler.postgres.reports.reports import Reports
from reconciler.postgres.schema import introspect
from testkit.rows import HOUR, add, keep, store


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, size=2)
    yield database
    await database.close()


@pytest.fixture
async def reports(pool: Any, database: Database) -> Reports:
    async with pool.acquire() as connection:
        return Reports(database, await introspect(connection))


async def test_the_details_hold_all_that_is_known(pool: Any, reports: Reports) -> None:
    instance, user = uuid4(), uuid4()
    row = await add(pool, "generating", HOUR, user_id=user, error="an old word")
    await keep(
        pool, row, why="store: timeout", looks=3, instance=instance, lease=uuid4(), lease_until_in=20, due_at_in=0,
        sources=["https://tempfile.aiquickdraw.com/one.png?token=secret"],
    )  # fmt: skip
    await store(pool, row, [10, 20])
    await pool.execute(
        "INSERT INTO reconciler.instances (id, host, pid, version) VALUES ($1, 'here', 42, '0')", instance
    )
    await pool.execute(
        "INSERT INTO reconciler.events (key, generation_id, kind, payload) VALUES ('k', $1, 'failed', '{}')", row
    )

    (case,) = await reports.explain(row)

    generation, known = case.generation, case.known
    assert (generation.id, generation.user_id, generation.model) == (row, str(user), "flux-2/pro")
    assert (generation.status, generation.error, generation.provider) == ("generating", "an old word", "kie")
    assert known is not None
    assert (known.why, known.looks) == ("store: timeout", 3)
    assert known.sources == ("https://tempfile.aiquickdraw.com/one.png",)  # what follows may be a signature
    assert case.held
    assert case.holder is not None
    assert (case.holder.instance, case.holder.host, case.holder.pid) == (instance, "here", 42)
    assert [(one.n, one.size, one.verified_by) for one in case.receipts] == [(0, 10, "etag-md5"), (1, 20, "etag-md5")]
    assert ([one.kind for one in case.events], case.replicas) == (["failed"], 1)


async def test_of_announced_results_neither_addresses_nor_texts_are_read(pool: Any, reports: Reports) -> None:
    row = await add(pool, "success")
    announced = [
        {"key": "b", "n": 1, "addresses": ["https://tempfile.aiquickdraw.com/b.mp3?token=secret"], "text": None},
        {"key": "json", "n": 0, "addresses": [], "text": "long words"},
        {"key": "#2", "n": 2, "addresses": [], "text": None},
    ]
    await keep(pool, row, results=json.dumps(announced), shown=2)

    (case,) = await reports.explain(row)

    assert case.known is not None
    assert [(one.key, one.n, one.arrived) for one in case.known.results] == [
        ("b", 1, True), ("json", 0, True), ("#2", 2, False),
    ]  # fmt: skip
    assert case.partial
    assert case.results is not None
    assert (case.results.announced, case.results.missing) == (3, ("#2",))


async def test_what_the_holder_reports_about_the_row_is_read_while_its_lease_lasts(pool: Any, reports: Reports) -> None:
    instance, stranger = uuid4(), uuid4()
    moves, asked, ended = await add(pool, task_id="a"), await add(pool, task_id="b"), await add(pool, task_id="c")
    for row, lease in ((moves, 20), (asked, 20), (ended, -1)):
        await keep(pool, row, instance=instance, lease=uuid4(), lease_until_in=lease)
    transfers = [
        {"generation_id": row, "n": 1, "stage": "store", "done": 40, "total": 90, "seconds": 8.0}
        for row in ("another", moves, ended)
    ]
    report = {"transfers": transfers, "asking": [{"generation_id": asked, "seconds": 4.5}], "held": 3}
    for replica, doing in ((instance, report), (stranger, {"transfers": [{**transfers[1], "generation_id": asked}]})):
        await pool.execute(
            "INSERT INTO reconciler.instances (id, host, pid, version, doing) VALUES ($1, 'here', 42, '0', $2)",
            replica, json.dumps(doing),
        )  # fmt: skip

    found = {case.generation.id: case for case in await reports.details_of([moves, asked, ended])}

    assert (found[asked].transfer, found[asked].asking) == (None, 4.5)
    assert (found[ended].transfer, found[ended].asking) == (None, None)
    transfer = found[moves].transfer
    assert transfer is not None
    assert (transfer.instance, transfer.n, transfer.stage) == (str(instance), 1, "store")
    assert (transfer.done, transfer.total, transfer.bytes_per_second) == (40, 90, 5.0)
    assert found[moves].asking is None


@pytest.mark.parametrize("report", [None, "null", "{}", '{"transfers": 3, "asking": {"generation_id": 1}}'])
async def test_a_replica_that_reports_nothing_of_it_hides_nothing_else(
    pool: Any, reports: Reports, report: str | None
) -> None:
    row, instance = await add(pool), uuid4()
    await keep(pool, row, instance=instance, lease=uuid4(), lease_until_in=20)
    await pool.execute(
        "INSERT INTO reconciler.instances (id, host, pid, version, doing) VALUES ($1, 'here', 42, '0', $2)",
        instance, report,
    )  # fmt: skip

    (case,) = await reports.explain(row)

    assert (case.held, case.transfer, case.asking) == (True, None, None)


async def test_a_row_without_bookkeeping_has_details_too(pool: Any, reports: Reports) -> None:
    row = await add(pool, "queued")

    (case,) = await reports.explain(row)

    assert (case.work, case.holder, case.held, case.assets, case.replicas) == (None, None, False, (), 0)


async def test_callbacks_belong_to_the_task_and_where_named_to_one_generation(pool: Any, reports: Reports) -> None:
    one, two = await add(pool, age=HOUR), await add(pool)
    other = await add(pool, task_id="other")
    for named in (None, one, one):
        await pool.execute(
            "INSERT INTO reconciler.callbacks (task_id, generation_id, body) VALUES ('task', $1, '{}')", named
        )

    cases = await reports.explain("task")

    assert [(case.generation.id, len(case.callbacks)) for case in cases] == [(one, 3), (two, 1)]
    assert (await reports.explain(other))[0].callbacks == ()


async def test_receipts_of_an_earlier_task_are_told_apart(pool: Any, reports: Reports) -> None:
    row = await add(pool, task_id="second")
    await keep(pool, row, seen_task="second")
    await store(pool, row, [10])

    (case,) = await reports.explain(row)

    assert ([one.task_id for one in case.assets], case.receipts) == (["task"], ())


async def test_a_name_that_is_neither_generation_nor_task_finds_nothing(reports: Reports) -> None:
    for name in ("nobody", str(uuid4()), "", "12", "x" * 9000, "{}", "'; --"):
        assert await reports.explain(name) == ()


@pytest.mark.parametrize("id_type", ["bigint", "integer", "text"])
async def test_every_report_works_on_an_older_table(empty_dsn: str, id_type: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        f"""CREATE TABLE public.generations (
                id {id_type} PRIMARY KEY, user_id text, status text, task_id varchar(40), asset_url text,
                created_at timestamp DEFAULT now(), type text, model_id text, error_message text);
            INSERT INTO public.generations (id, status, task_id, created_at, type, model_id, error_message) VALUES
                ('7', 'pending', 'a', now() - interval '1 h', 'video', 'kling', NULL),
                ('8', 'completed', 'b', now() - interval '1 h', 'video', 'kling', NULL),
                ('9', 'failed', 'a', now() - interval '1 h', 'video', 'kling', 'why not')"""
    )
    await migrate(empty_dsn)
    reports = Reports(Database(empty_dsn, size=1), await introspect(connection))
    await connection.close()

    status, snapshot = await reports.status(), await reports.snapshot()
    (stuck,) = await reports.stuck()
    first = await reports.unhealed(2)
    rest = await reports.unhealed(2, first.upto)
    cases = await reports.explain("a")

    assert (status.total, status.success, status.failed, status.stuck) == (3, 1, 1, 1)
    assert snapshot.in_flight == {"pending": 1}
    assert (stuck.id, stuck.kind, stuck.model) == ("7", "video", "kling")
    assert (first.found, rest.found, rest.upto) == (("8",), (), None)
    assert [(case.generation.id, case.generation.error) for case in cases] == [("7", None), ("9", "why not")]
    assert (await reports.explain("7"))[0].generation.id == "7"


@pytest.mark.parametrize(
    ("name", "id_type", "key"),
    [
        ("7C9E6679-7425-40DE-944B-E07FC1F90AE7", "uuid", "7c9e6679-7425-40de-944b-e07fc1f90ae7"),
        ("7c9e", "uuid", None),
        ("12", "bigint", "12"),
        ("9223372036854775808", "bigint", None),
        ("2147483648", "integer", None),
        ("-1", "bigint", None),
        ("٣", "bigint", None),
        ("anything", "text", "anything"),
    ],
)
def test_a_name_is_a_key_only_where_the_column_could_hold_it(name: str, id_type: str, key: str | None) -> None:
    assert as_key(name, id_type) == key
