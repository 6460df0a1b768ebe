"""Reports over a whole table on real PostgreSQL; every expected figure is counted by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.domain.object_keys import AddressRules
from reconciler.postgres.pool import Database
from reconciler.postgres.reports import report_sql
from reconciler.postgres.reports.reports import InFlight, Reports, ReportScope
from reconciler.postgres.schema import TableShape, introspect
from reconciler.postgres.statement import Statement
from testkit.rows import HOUR, OURS, THEIRS, add, keep, store


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, size=2)
    yield database
    await database.close()


@pytest.fixture
async def generations(pool: Any) -> TableShape:
    async with pool.acquire() as connection:
        return await introspect(connection)


@pytest.fixture
def reports(database: Database, generations: TableShape) -> Reports:
    return Reports(database, generations)


async def test_an_empty_table_has_no_rate_and_no_times(reports: Reports) -> None:
    status = await reports.status()

    assert (status.total, status.success_percent, status.mean_seconds, status.p95_seconds) == (0, None, None, None)
    assert (await reports.snapshot()).in_flight == {}
    assert await reports.stuck() == ()


async def test_status_counts_what_was_created_in_the_last_day(pool: Any, reports: Reports) -> None:
    for status in ("success", "success", "completed", "failed", "cancelled", "queued", "generating"):
        await pool.execute("ALTER TABLE public.generations DROP CONSTRAINT IF EXISTS generations_status_check")
        await add(pool, status, HOUR)
    await add(pool, "success", 25 * HOUR)
    await add(pool, "generating", 25 * HOUR)

    status = await reports.status()

    assert (status.total, status.success, status.failed, status.generating) == (7, 3, 1, 2)
    assert status.success_percent == 42.9  # 3 of 7
    assert (status.in_flight, status.stuck) == (3, 3)


async def test_status_leaves_out_rows_that_are_not_ours(pool: Any, database: Database, generations: TableShape) -> None:
    await add(pool, "success", HOUR)
    await add(pool, "success", HOUR, provider="fal")
    await add(pool, "generating", HOUR, provider="fal")
    await add(pool, "generating", HOUR, task_id="another-scheme")

    reports = Reports(database, generations, ReportScope(task_pattern="^task"))
    status = await reports.status()

    assert (status.total, status.success, status.in_flight, status.stuck) == (1, 1, 0, 0)
    assert await reports.stuck() == ()


async def test_times_to_delivery_come_from_our_receipts_and_not_from_updated_at(pool: Any, reports: Reports) -> None:
    for seconds in (10, 20, 30, 40, 100):
        row = await add(pool, "success", HOUR)
        await keep(pool, row, delivered_at_in=-3600 + seconds)
    healed = await add(pool, "success", 48 * HOUR)
    await keep(pool, healed, delivered_at_in=-60)

    status = await reports.status()

    assert status.delivered == 5
    assert status.mean_seconds == pytest.approx(40.0, abs=0.2)
    assert status.p95_seconds == pytest.approx(88.0, abs=0.2)  # between 40 and 100, at 3.8 of 4 steps


async def test_stored_bytes_are_those_with_a_receipt(pool: Any, reports: Reports) -> None:
    row = await add(pool, "success", HOUR)
    await keep(pool, row, delivered_at_in=-60)
    await store(pool, row, [1000, 24])
    of_old = await add(pool, "success", 40 * HOUR)
    await keep(pool, of_old, delivered_at_in=-30 * 3600)
    await store(pool, of_old, [70_000])
    await store(pool, row, [5000], task_id="earlier", proven=False)
    intended = await add(pool, "generating", HOUR)
    await keep(pool, intended)
    await store(pool, intended, [600_000])

    status = await reports.status()

    assert (status.stored_files, status.stored_bytes) == (2, 1024)


async def test_stuck_lists_the_oldest_first_with_the_reason(
    pool: Any, reports: Reports, database: Database, generations: TableShape
) -> None:
    unseen = await add(pool, "queued", 2 * HOUR)
    polled = await add(pool, "generating", 3 * HOUR)
    await keep(pool, polled, why="KIE: unauthorized", finding="key_rejected", looks=7)
    changed = await add(pool, "generating", HOUR, task_id="second")
    await keep(pool, changed, why="of the first task", looks=3)
    await add(pool, "generating", timedelta(minutes=9))
    await add(pool, "failed", 5 * HOUR)

    stuck = await reports.stuck()

    assert [one.id for one in stuck] == [polled, unseen, changed]
    assert [one.why for one in stuck] == [
        "KIE: unauthorized",
        "no replica has looked at it yet",
        "not looked at since it got this task",
    ]
    assert [(one.finding, one.looks) for one in stuck] == [("key_rejected", 7), (None, 0), (None, 0)]
    assert stuck[0].age == pytest.approx(3 * 3600, abs=5)
    patient = Reports(database, generations, ReportScope(stuck_after=timedelta(hours=2.5)))
    assert [one.id for one in await patient.stuck()] == [polled]


async def test_only_a_row_that_nobody_has_asked_kie_about_waits_for_its_first_poll(pool: Any, reports: Reports) -> None:
    facts = ({}, {"lease_until_in": 20}, {"looks": 2}, {"looks": 2, "why": "KIE says waiting"})
    for hours, known in enumerate(facts, start=1):
        await keep(pool, await add(pool, "generating", (9 - hours) * HOUR), **known)

    assert [one.why for one in await reports.stuck()] == [
        "waiting for its first poll", "a visit is under way", "its last visit ended without a reason",
        "KIE says waiting",
    ]  # fmt: skip


async def test_how_many_are_in_flight_is_told_with_the_longest_wait(pool: Any, reports: Reports) -> None:
    assert await reports.in_flight() == InFlight(0, None)
    for age in (HOUR, 2 * HOUR):
        await add(pool, "generating", age)
    await add(pool, "success", 3 * HOUR)

    found = await reports.in_flight()
    assert (found.rows, found.oldest) == (2, pytest.approx(7200, abs=5))


async def test_a_row_that_got_another_task_waits_for_that_one(pool: Any, reports: Reports) -> None:
    anew = await add(pool, "queued", 30 * 24 * HOUR)
    stuck = await add(pool, "queued", 30 * 24 * HOUR)
    for row, minutes in ((anew, 1), (stuck, 20)):
        await keep(pool, row, seen_task="task")
        await pool.execute(
            "UPDATE reconciler.work SET task_since = now() - $2 * interval '1 minute' WHERE generation_id = $1",
            *(row, minutes),
        )

    (found,) = await reports.stuck()
    assert (found.id, found.age) == (stuck, pytest.approx(1200, abs=5))
    snapshot = await reports.snapshot()
    assert (snapshot.stuck, snapshot.oldest) == (1, pytest.approx(1200, abs=5))


async def test_the_snapshot_counts_what_waits_by_its_finding(pool: Any, reports: Reports) -> None:
    for finding in (None, None, "key_rejected", "key_rejected", "parked"):
        row = await add(pool, "generating", HOUR)
        await keep(pool, row, finding=finding, due_at_in=5)
    done = await add(pool, "failed", HOUR)
    await keep(pool, done, finding="parked", seen_status="failed")  # has no due time: no action is needed
    await add(pool, "queued")

    snapshot = await reports.snapshot()

    assert snapshot.in_flight == {"generating": 5, "queued": 1}
    assert snapshot.waiting == {"key_rejected": 2, "parked": 1}
    assert snapshot.stuck == 5
    assert snapshot.oldest == pytest.approx(3600, abs=5)


@pytest.mark.parametrize("status", ["cancelled", "success", "failed"])
async def test_a_row_that_somebody_has_ended_leaves_its_finding_before_its_next_visit(
    pool: Any, reports: Reports, status: str
) -> None:
    row = await add(pool, "generating")
    failing = series_json(storage=(3, 60, "store: storage_5xx"))
    facts = {"finding": "host_unlisted", "failing": failing, "media_deadline_in": 5}
    await keep(pool, row, seen_status="generating", due_at_in=500, **facts)
    before = await reports.snapshot()
    await pool.execute("UPDATE public.generations SET status = $1", status)
    after = await reports.snapshot()

    assert (before.waiting, set(before.failing), before.expiring) == ({"host_unlisted": 1}, {"storage"}, 1)
    assert (after.waiting, after.failing, after.expiring) == ({}, {}, 0)


async def test_a_success_that_is_being_mended_keeps_its_finding(pool: Any, reports: Reports) -> None:
    row = await add(pool, "success", asset_url=f"{OURS}/one.png")
    await keep(
        pool, row, seen_status="success", due_at_in=5, finding="row_refused",
        failing=series_json(storage=(9, 60, "store: timeout")),
    )  # fmt: skip

    snapshot = await reports.snapshot()

    assert (snapshot.waiting, set(snapshot.failing)) == ({"row_refused": 1}, {"storage"})


async def test_the_snapshot_counts_each_side_that_fails_rows_by_itself(pool: Any, reports: Reports) -> None:
    both = series_json(kie=(2, 5, "KIE: timeout"), storage=(3, 100, "store: storage_5xx, full"))
    once = series_json(storage=(4, 700, "prove: timeout"))
    kie = series_json(kie=(3, 30, "KIE: not_json, HTTP 520"))
    for failing in (both, both, once, kie, None):
        await keep(pool, await add(pool), failing=failing, misses=9, due_at_in=5)
    refused = await add(pool)
    await keep(pool, refused, failing=once, finding="storage_refuses", due_at_in=5)
    await keep(pool, await add(pool), failing=once)  # has no due time

    failing = (await reports.snapshot()).failing

    assert set(failing) == {"kie", "storage"}
    assert (failing["storage"].rows, failing["storage"].reason) == (3, "store: storage_5xx, full")
    assert failing["storage"].seconds == pytest.approx(700, abs=5)
    assert (failing["kie"].rows, failing["kie"].reason) == (1, "KIE: not_json, HTTP 520")


async def test_the_hosts_of_results_that_cannot_be_fetched_are_named(pool: Any, reports: Reports) -> None:
    failing = series_json(source=(3, 5, "fetch: timeout"))
    sources = ["https://cdn.example.net/a.png?sig=1", "https://[", "https://b.example.net:8443/b.png"]
    await keep(pool, await add(pool), failing=failing, sources=sources, due_at_in=5)
    others = ["https://good.example.net/a.png"]
    await keep(pool, await add(pool), sources=others, due_at_in=5)

    assert (await reports.snapshot()).failing["source"].hosts == ("b.example.net", "cdn.example.net")


async def test_the_snapshot_counts_results_past_half_of_their_addresses_life(pool: Any, reports: Reports) -> None:
    for left, due in ((13 * 3600, 5), (11 * 3600, 5), (2 * 3600, 5), (600, None)):
        row = await add(pool, "generating", 24 * HOUR)
        await keep(pool, row, media_deadline_in=left, **({"due_at_in": due} if due else {}))

    snapshot = await reports.snapshot()

    assert snapshot.expiring == 2
    assert snapshot.media_deadline == pytest.approx(2 * 3600, abs=5)


async def test_the_snapshot_names_unlisted_hosts_even_of_kie(
    pool: Any, database: Database, generations: TableShape
) -> None:
    row = await add(pool)
    sources = ["https://new.example.net/a.png?sig=1", THEIRS, "https://listed.example.net/b.png"]
    await keep(pool, row, finding="host_unlisted", sources=sources, due_at_in=5)

    reports = Reports(database, generations, ReportScope(result_hosts=("listed.example.net",)))

    assert (await reports.snapshot()).unlisted_hosts == ("new.example.net", "tempfile.aiquickdraw.com")


async def test_unsent_events_count_only_where_webhooks_are_sent(
    pool: Any, database: Database, generations: TableShape
) -> None:
    await pool.execute(
        """INSERT INTO reconciler.events (key, generation_id, kind, payload, at)
           VALUES ('a', 'g', 'failed', '{}', now() - interval '90 s'), ('b', 'g', 'failed', '{}', now());
           INSERT INTO reconciler.events (key, generation_id, kind, payload, at, dead_at)
           VALUES ('c', 'g', 'failed', '{}', now() - interval '4 days', now())"""
    )

    with_webhooks = await Reports(database, generations, ReportScope(announces=True)).snapshot()
    without = await Reports(database, generations).snapshot()

    assert with_webhooks.unannounced == 2
    assert with_webhooks.unannounced_age == pytest.approx(90, abs=5)
    assert with_webhooks.events_dead == 1
    assert (without.unannounced, without.unannounced_age, without.events_dead) == (0, 0.0, 0)


async def test_unhealed_finds_successes_without_an_asset_of_ours_page_by_page(pool: Any, reports: Reports) -> None:
    wanted = {
        await add(pool, "success", 40 * 24 * HOUR),
        await add(pool, "success", HOUR, asset_url=THEIRS),
    }
    await add(pool, "success", HOUR, asset_url=f"{OURS}/one.png")
    await add(pool, "success", HOUR, asset_url="https://example.com/?from=aiquickdraw.com")
    await add(pool, "success", HOUR, provider="fal")
    await add(pool, "generating", HOUR)
    await add(pool, "failed", HOUR)

    found: list[str] = []
    looked, upto, pages = 0, None, 0
    while True:
        page = await reports.unhealed(2, upto)
        found, looked, upto, pages = [*found, *page.found], looked + page.looked, page.upto, pages + 1
        if upto is None:
            break

    assert found == sorted(wanted)
    assert (looked, pages) == (7, 4)


async def test_any_result_host_still_means_that_known_provider_addresses_are_not_ours(
    pool: Any, database: Database, generations: TableShape
) -> None:
    theirs = await add(pool, "success", HOUR, asset_url=THEIRS)
    await add(pool, "success", HOUR, asset_url=f"{OURS}/one.png")

    reports = Reports(database, generations, ReportScope(address_rules=AddressRules(("*",))))

    assert (await reports.unhealed()).found == (theirs,)


@pytest.mark.parametrize("table", ["indexed", "small", "large"])
async def test_a_task_names_its_generations_and_in_a_large_table_without_index_those_that_we_know(
    pool: Any, reports: Reports, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if table != "indexed":
        await pool.execute("DROP INDEX public.generations_task_id")
    if table != "small":
        large = report_sql.SEARCHABLE.replace("64 << 20", "1")
        monkeypatch.setattr(report_sql, "SEARCHABLE", large)
    known = await add(pool, "success", asset_url=f"{OURS}/one.png")
    await keep(pool, known)
    in_flight = await add(pool, "generating")
    never_seen = await add(pool, "failed")
    await add(pool, "generating", task_id="other")
    alone = await add(pool, "failed", task_id="older")

    assert set(await reports.find_task("task")) == (
        {known, in_flight} if table == "large" else {known, in_flight, never_seen}
    )
    assert await reports.find_task("older") == (alone,)
    assert await reports.find_task("nobody's") == ()


async def test_stuck_and_the_figures_read_the_partial_index_of_a_large_table(
    pool: Any, generations: TableShape
) -> None:
    await pool.execute("ALTER TABLE public.generations DISABLE TRIGGER USER")  # 50,000 notifications take seconds
    await pool.execute(
        """INSERT INTO public.generations (status, task_id, asset_url, created_at)
           SELECT 'success', 't' || n, 'https://ours/' || n, now() - interval '30 days' - n * interval '1 minute'
             FROM generate_series(1, 50000) AS n"""
    )
    for _ in range(20):
        await add(pool, "generating", HOUR)
    await pool.execute("ANALYZE public.generations")
    ours, period = {"providers": ["kie"], "task_pattern": ".+"}, timedelta(minutes=10)
    statements = [
        (Statement(report_sql.stuck(generations))(stuck_after=period, **ours), "generations_reconciler_open"),
        (report_sql.in_flight(generations)(stuck_after=period, **ours), "generations_reconciler_open"),
        (report_sql.last_day(generations)(within=period, **ours), "generations_created"),
    ]

    for (sql, *values), index in statements:
        plan = await pool.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *values)
        nodes = list(_nodes(json.loads(plan)[0]["Plan"]))
        assert not any(node["Node Type"] == "Seq Scan" and node["Relation Name"] == "generations" for node in nodes)
        assert any(node.get("Index Name", "").startswith(index) for node in nodes), sql


def series_json(**sides: tuple[int, float, str]) -> str:
    """Return failures in a row as the ledger keeps them: count, seconds since the first one, last sentence."""
    now = datetime.now(UTC)
    return json.dumps(
        {
            side: {"count": count, "since": (now - timedelta(seconds=age)).isoformat(), "reason": reason}
            for side, (count, age, reason) in sides.items()
        }
    )


def _nodes(plan: dict[str, Any]) -> Any:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)
