"""The chores, with a real database, a local KIE over HTTP and local storage; the daemon is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from reconciler import settings
from reconciler.assembly import Parts, parts
from reconciler.bench.simulator import Failure, Simulator, never
from reconciler.doors.chores import Desk, Outcome, backfill, retry, sync, unhealed
from reconciler.doors.story import Terms
from reconciler.edges.kie import key_hash
from reconciler.edges.reopen import Reopening
from reconciler.errors import LeaseLost, Permanent, Transient
from tests.rows import HOUR, OURS, add, keep, state
from tests.waiting import until

FILES = "http://127.0.0.1:9/files"
DAY = timedelta(days=1)


@pytest.fixture
async def kie() -> AsyncIterator[Simulator]:
    async with Simulator(limits=False, compress=False) as simulator:
        yield simulator


@pytest.fixture
async def built(dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[Parts]:
    environment = {
        "DATABASE_URL": dsn,
        "KIE_API_KEY": "key",
        "KIE_MARKET_BASE_URL": kie.url,
        "RECONCILER_ALLOW_PRIVATE_HOSTS": "true",
        "RECONCILER_POLL_RATE": "1000",
        "RECONCILER_PUBLIC_URL": "http://127.0.0.1:9",
        "RECONCILER_RESULT_HOSTS": "127.0.0.1,aiquickdraw.com",
        "RECONCILER_SPOOL_DIR": str(tmp_path / "spool"),
        "RECONCILER_STORAGE_BACKEND": "local",
        "RECONCILER_STORAGE_LOCAL_DIR": str(tmp_path / "files"),
    }
    async with parts(settings.load(environment, tmp_path)) as made:
        yield made


@pytest.fixture
def desk(built: Parts) -> Desk:
    terms = Terms(timedelta(hours=24), built.settings.result_hosts)
    return Desk(built.work, built.reports, Reopening(built.database, built.shape), terms, at_once=4, patience=20)


async def heal(desk: Desk) -> dict[str, Outcome]:
    outcomes = await backfill(desk, on_page=lambda _looked, _found: None, on_outcome=lambda _: None)
    return {one.generation_id: one for one in outcomes}


# --- sync -------------------------------------------------------------------------------------------------------------


async def test_sync_delivers_every_generation_of_the_task(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task()
    twins = {await add(pool, "generating", task_id=task), await add(pool, "queued", task_id=task)}

    async with asyncio.timeout(desk.patience / 2):  # nobody is waited for
        outcomes = await sync(desk, task)

    assert {one.generation_id for one in outcomes} == twins
    for one in outcomes:
        assert (one.word, one.settled) == ("delivered", True)
        assert one.asset_url == (await state(pool, one.generation_id))["asset_url"]
        assert one.asset_url.startswith(FILES)
    assert (await state(pool, outcomes[0].generation_id))["lease"] is None


async def test_sync_tells_kies_reason_where_kie_refused(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task(fate="fail", failure=Failure("422", "nsfw content"))
    await add(pool, task_id=task)

    (one,) = await sync(desk, task)

    assert (one.word, one.settled, one.why) == ("failed", True, "nsfw content (422)")


async def test_sync_of_a_running_task_is_not_settled(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task(life=never("waiting"))
    await add(pool, task_id=task)

    (one,) = await sync(desk, task)

    assert (one.word, one.settled, one.why) == ("working", False, "KIE says waiting")


async def test_sync_knows_no_strangers_task(desk: Desk) -> None:
    assert await sync(desk, "nobody's") == ()


async def test_sync_does_not_ask_about_what_is_delivered(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task()
    await add(pool, "success", task_id=task, asset_url=f"{OURS}/one.png")

    (one,) = await sync(desk, task)

    assert (one.word, one.asset_url, kie.counts.records) == ("delivered", f"{OURS}/one.png", 0)


async def test_sync_leaves_cancelled_rows_alone(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task()
    row = await add(pool, "cancelled", task_id=task)

    (one,) = await sync(desk, task)

    assert (one.word, one.settled) == ("left", False)
    assert "cancelled" in one.why
    assert ((await state(pool, row))["status"], kie.counts.records) == ("cancelled", 0)


async def test_sync_says_that_a_row_of_another_provider_is_not_ours(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task()
    await add(pool, task_id=task, provider="fal")

    (one,) = await sync(desk, task)

    assert (one.word, kie.counts.records) == ("left", 0)
    assert "not one of ours" in one.why


async def test_sync_asks_about_a_fresh_row_though_no_request_is_to_spare(
    kie: Simulator, pool: Any, built: Parts, desk: Desk
) -> None:
    task = kie.add_task()
    await add(pool, task_id=task)
    await built.budget.empty(key_hash("key"), 0.5)

    (one,) = await sync(desk, task)

    assert one.word == "delivered"


async def test_sync_waits_for_the_instance_that_holds_the_row(kie: Simulator, pool: Any, desk: Desk) -> None:
    row = await add(pool)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=30)

    asking = asyncio.create_task(sync(desk, "task"))
    await until(lambda: _woken(pool, row), what="the holder is woken")
    done = asking.done()
    await pool.execute("UPDATE public.generations SET status = 'success', asset_url = $1", f"{OURS}/theirs.png")
    await pool.execute("UPDATE reconciler.work SET lease = NULL, lease_until = NULL, due_at = NULL")

    (one,) = await asking
    assert not done
    assert (one.word, one.asset_url, kie.counts.records) == ("delivered", f"{OURS}/theirs.png", 0)


async def test_sync_does_not_wait_for_ever(pool: Any, desk: Desk) -> None:
    row = await add(pool)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=30, why="KIE says waiting")

    (one,) = await sync(replace(desk, patience=0), "task")

    assert (one.word, one.why) == ("working", "another instance holds it; KIE says waiting")


async def test_a_lease_lost_on_the_way_is_no_failure(
    kie: Simulator, pool: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = kie.add_task()
    await add(pool, task_id=task)

    async def lost(*_: object) -> None:
        raise LeaseLost

    monkeypatch.setattr(desk.work, "once", lost)
    (one,) = await sync(desk, task)

    assert one.word in ("working", "left")


async def _woken(pool: Any, row: str) -> bool:
    return bool((await state(pool, row))["woken"])


# --- retry ------------------------------------------------------------------------------------------------------------


async def test_retry_delivers_what_we_gave_up(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task()
    row = await add(pool, "failed", 2 * DAY, task_id=task, error="gave up after 24 h")
    await keep(pool, row, seen_task=task, gave_up=True, due_at_in=3600)

    one = await retry(desk, row)

    assert one is not None
    assert one.word == "delivered"
    assert await pool.fetchval("SELECT kind FROM reconciler.events") == "recovered"
    after = await state(pool, row)
    assert (after["status"], after["error"], after["reopened"], after["gave_up"]) == ("success", None, False, False)


async def test_a_refused_row_stays_as_it_is_while_kie_says_the_same(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task(fate="fail")
    row = await add(pool, "failed", HOUR, task_id=task, error="Internal server error (500)")
    before = await state(pool, row)

    one = await retry(desk, row)

    assert one is not None
    assert (one.word, one.why, kie.counts.records) == ("failed", "Internal server error (500)", 1)
    after = await state(pool, row)
    assert (after["status"], after["version"]) == ("failed", before["version"])


async def test_a_refused_row_is_delivered_once_kie_itself_calls_it_a_success(
    kie: Simulator, pool: Any, desk: Desk
) -> None:
    task = kie.add_task()
    row = await add(pool, "failed", HOUR, task_id=task, error="refused")

    one = await retry(desk, row)

    assert one is not None
    assert (one.word, (await state(pool, row))["status"]) == ("delivered", "success")


async def test_retry_of_a_row_in_flight_is_a_visit_now(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task()
    row = await add(pool, "generating", 3 * DAY, task_id=task)
    await keep(pool, row, seen_task=task, finding="parked", due_at_in=20_000)

    one = await retry(desk, row)

    assert one is not None
    assert one.word == "delivered"


@pytest.mark.parametrize("status", ["cancelled", "archived"])
async def test_retry_refuses_rows_that_are_not_ours_to_move(pool: Any, desk: Desk, status: str) -> None:
    await pool.execute("ALTER TABLE public.generations DROP CONSTRAINT IF EXISTS generations_status_check")
    row = await add(pool, status)

    with pytest.raises(Permanent, match=f"{row} is {status}"):
        await retry(desk, row)

    assert (await state(pool, row))["status"] == status


async def test_retry_needs_a_task(pool: Any, desk: Desk) -> None:
    row = await add(pool, "failed", task_id=None)

    with pytest.raises(Permanent, match="no task id"):
        await retry(desk, row)


@pytest.mark.parametrize("unknown", ["00000000-0000-4000-8000-000000000000", "no-uuid"])
async def test_retry_knows_no_strangers_row(desk: Desk, unknown: str) -> None:
    assert await retry(desk, unknown) is None


async def test_retry_waits_for_the_lease_of_another(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task()
    row = await add(pool, "failed", HOUR, task_id=task)
    await keep(pool, row, seen_task=task, lease=uuid4(), instance=uuid4(), lease_until_in=0.7)

    one = await retry(desk, row)

    assert one is not None
    assert one.word == "delivered"


async def test_retry_gives_up_on_a_lease_that_does_not_end(pool: Any, desk: Desk) -> None:
    row = await add(pool, "failed", HOUR)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=50)

    with pytest.raises(Transient, match="keeps holding"):
        await retry(replace(desk, patience=0), row)

    assert not (await state(pool, row))["reopened"]


async def test_what_was_noted_about_an_earlier_task_is_not_believed(kie: Simulator, pool: Any, desk: Desk) -> None:
    task = kie.add_task()
    row = await add(pool, "failed", HOUR, task_id=task)
    await keep(pool, row, seen_task="earlier", sources=["https://tempfile.aiquickdraw.com/earlier.png"], looks=9)

    one = await retry(desk, row)

    assert one is not None
    assert one.word == "delivered"
    (address,) = kie.addresses(kie.tasks[task])
    assert await pool.fetchval("SELECT sources FROM reconciler.work") == [address]


# --- backfill ---------------------------------------------------------------------------------------------------------


async def test_backfill_heals_what_says_success_without_an_asset_of_ours(kie: Simulator, pool: Any, desk: Desk) -> None:
    tasks = [kie.add_task() for _ in range(6)]
    empty = [await add(pool, "success", 2 * DAY, task_id=task) for task in tasks[:5]]
    theirs = await add(pool, "success", DAY, task_id=tasks[5], asset_url="https://tempfile.aiquickdraw.com/x.png")
    healthy = await add(pool, "success", DAY, asset_url=f"{OURS}/one.png")

    outcomes = await heal(desk)

    assert set(outcomes) == {*empty, theirs}
    assert {one.word for one in outcomes.values()} == {"delivered"}
    for row in (*empty, theirs):
        assert (await state(pool, row))["asset_url"].startswith(FILES)
    assert (await state(pool, healthy))["asset_url"] == f"{OURS}/one.png"
    assert await heal(desk) == {}


async def test_what_cannot_be_healed_is_remembered_and_stops_nobody(kie: Simulator, pool: Any, desk: Desk) -> None:
    refused = await add(pool, "success", DAY, task_id=kie.add_task(fate="fail"))
    dead = await add(pool, "success", 40 * DAY, task_id="forgotten")
    good = await add(pool, "success", DAY, task_id=kie.add_task())
    versions = {row: (await state(pool, row))["version"] for row in (refused, dead)}

    outcomes = await heal(desk)

    assert {row: one.word for row, one in outcomes.items()} == {refused: "left", dead: "left", good: "delivered"}
    assert "KIE refused the task" in outcomes[refused].why
    assert "nothing left to fetch" in outcomes[dead].why
    for row in (refused, dead):
        after = await state(pool, row)
        assert (after["due_at"], after["version"]) == (None, versions[row])


async def test_a_walk_alone_changes_nothing(kie: Simulator, pool: Any, desk: Desk) -> None:
    row = await add(pool, "success", DAY, task_id=kie.add_task())
    heard: list[tuple[int, int]] = []

    found = await unhealed(desk.reports, lambda *counts: heard.append(counts))

    assert (found, heard, kie.counts.records) == ([row], [(1, 1)], 0)
    assert await pool.fetchval("SELECT count(*) FROM reconciler.work") == 0


async def test_a_visit_that_breaks_costs_only_its_own_row(
    kie: Simulator, pool: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [await add(pool, "success", DAY, task_id=kie.add_task()) for _ in range(3)]
    once = desk.work.once

    async def breaks(generation_id: str, *more: Any) -> Any:
        if generation_id == rows[1]:
            raise RuntimeError("a secret may stand here")
        return await once(generation_id, *more)

    monkeypatch.setattr(desk.work, "once", breaks)
    outcomes = await heal(desk)

    assert [outcomes[row].word for row in rows] == ["delivered", "working", "delivered"]
    assert outcomes[rows[1]].why == "the visit broke: RuntimeError"


async def test_backfill_stops_when_the_database_is_away(
    kie: Simulator, pool: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        await add(pool, "success", DAY, task_id=kie.add_task())
    tried: list[str] = []

    async def away(generation_id: str, *_: object) -> None:
        tried.append(generation_id)
        raise Transient("the database is away", code="database_away")

    monkeypatch.setattr(desk.work, "once", away)
    with pytest.raises(Transient, match="away"):
        await heal(desk)

    assert len(tried) <= desk.at_once
