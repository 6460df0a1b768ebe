"""`sync`: one task is visited now."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from reconciler.bootstrap import Parts
from reconciler.errors import LeaseLost
from reconciler.kie.client import key_hash
from reconciler.operations.operator import Operator
from reconciler.operations.sync import sync
from reconciler.simulator import Failure, Simulator, never
from testkit.rows import OURS, add, keep, state
from testkit.waiting import until

FILES = "http://127.0.0.1:9/files"


async def test_sync_delivers_every_generation_of_the_task(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task()
    twins = {await add(pool, "generating", task_id=task), await add(pool, "queued", task_id=task)}

    async with asyncio.timeout(operator.patience / 2):  # it waits for no lease
        outcomes = await sync(operator, task)

    assert {one.generation_id for one in outcomes} == twins
    for one in outcomes:
        assert (one.word, one.settled) == ("delivered", True)
        assert one.asset_url == (await state(pool, one.generation_id))["asset_url"]
        assert one.asset_url.startswith(FILES)
    assert (await state(pool, outcomes[0].generation_id))["lease"] is None


async def test_sync_gives_kies_reason_where_kie_refused(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task(fate="fail", failure=Failure("422", "nsfw content"))
    await add(pool, task_id=task)

    (one,) = await sync(operator, task)

    assert (one.word, one.settled, one.why) == ("failed", True, "nsfw content (422)")


async def test_sync_of_a_running_task_is_not_settled(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task(life=never("waiting"))
    await add(pool, task_id=task)

    (one,) = await sync(operator, task)

    assert (one.word, one.settled, one.why) == ("working", False, "KIE says waiting")


async def test_sync_of_an_unknown_task_returns_nothing(operator: Operator) -> None:
    assert await sync(operator, "nobody's") == ()


async def test_sync_does_not_ask_about_a_delivered_generation(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task()
    await add(pool, "success", task_id=task, asset_url=f"{OURS}/one.png")

    (one,) = await sync(operator, task)

    assert (one.word, one.asset_url, kie.counts.records) == ("delivered", f"{OURS}/one.png", 0)


async def test_sync_leaves_cancelled_rows_alone(kie: Simulator, pool: Any, operator: Operator) -> None:
    task = kie.add_task()
    row = await add(pool, "cancelled", task_id=task)

    (one,) = await sync(operator, task)

    assert (one.word, one.settled) == ("left", False)
    assert "cancelled" in one.why
    assert ((await state(pool, row))["status"], kie.counts.records) == ("cancelled", 0)


async def test_sync_says_that_a_row_of_another_provider_is_left_alone(
    kie: Simulator, pool: Any, operator: Operator
) -> None:
    task = kie.add_task()
    await add(pool, task_id=task, provider="fal")

    (one,) = await sync(operator, task)

    assert (one.word, kie.counts.records) == ("left", 0)
    assert "leaves it alone" in one.why


async def test_sync_asks_about_a_new_row_even_if_no_request_is_to_spare(
    kie: Simulator, pool: Any, built: Parts, operator: Operator
) -> None:
    task = kie.add_task()
    await add(pool, task_id=task)
    await built.rate_limit.pause(key_hash("key"), 0.5)

    (one,) = await sync(operator, task)

    assert one.word == "delivered"


async def test_sync_waits_for_the_instance_that_holds_the_row(kie: Simulator, pool: Any, operator: Operator) -> None:
    row = await add(pool)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=30)

    asking = asyncio.create_task(sync(operator, "task"))
    await until(lambda: _woken(pool, row), what="the holder is woken")
    done = asking.done()
    await pool.execute("UPDATE public.generations SET status = 'success', asset_url = $1", f"{OURS}/theirs.png")
    await pool.execute("UPDATE reconciler.work SET lease = NULL, lease_until = NULL, due_at = NULL")

    (one,) = await asking
    assert not done
    assert (one.word, one.asset_url, kie.counts.records) == ("delivered", f"{OURS}/theirs.png", 0)


async def test_sync_stops_waiting_when_its_patience_ends(pool: Any, operator: Operator) -> None:
    row = await add(pool)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=30, why="KIE says waiting")

    (one,) = await sync(replace(operator, patience=0), "task")

    assert (one.word, one.why) == ("working", "another instance holds it; KIE says waiting")


async def test_a_lease_that_is_lost_during_sync_is_no_failure(
    kie: Simulator, pool: Any, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = kie.add_task()
    await add(pool, task_id=task)

    async def lost(*_: object) -> None:
        raise LeaseLost

    monkeypatch.setattr(operator.worker, "once", lost)
    (one,) = await sync(operator, task)

    assert one.word in ("working", "left")


async def _woken(pool: Any, row: str) -> bool:
    return bool((await state(pool, row))["woken"])
