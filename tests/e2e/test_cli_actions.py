"""The commands sync, retry, backfill and run, with a local KIE and a folder as storage."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from reconciler.simulator import Failure, never
from testkit.commands import Ran, begin, run
from testkit.rows import add, state
from testkit.stage import Rig
from testkit.waiting import until

pytestmark = pytest.mark.parametrize("rig", ["folder"], indirect=True)

DAY_OLD = 86_400.0


async def command(rig: Rig, *words: str) -> Ran:
    rig.folder.mkdir(exist_ok=True)
    return await run(*words, folder=rig.folder, environment=rig.environment())


async def test_sync_that_delivers_is_exit_0(rig: Rig) -> None:
    row = await rig.order()
    task = (await state(rig.pool, row))["task_id"]

    ran = await command(rig, "sync", task)

    assert ran.code == 0
    assert f"{row}  {task}  delivered" in ran.out
    await rig.prove(row)


async def test_sync_of_a_running_task_is_exit_1_and_says_why(rig: Rig) -> None:
    row = await rig.order(life=never("generating"))
    task = (await state(rig.pool, row))["task_id"]

    ran = await command(rig, "sync", task, "--json")

    assert ran.code == 1
    assert [(one["generation_id"], one["word"], one["why"]) for one in ran.answer] == [
        (row, "working", "KIE says generating")
    ]


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", ["nobody's", os.fsdecode(b"nobody's\xff")])
async def test_an_unknown_task_is_exit_1(rig: Rig, task: str) -> None:
    ran = await command(rig, "sync", task)

    assert (ran.code, ran.out) == (1, "")
    assert "nobody's" in ran.told


async def test_retry_of_a_row_that_kie_refuses_again_is_exit_0(rig: Rig) -> None:
    row = await rig.order(status="failed", fate="fail", failure=Failure("422", "nsfw content"))

    ran = await command(rig, "retry", row)

    assert ran.code == 0
    assert "failed" in ran.out


async def test_retry_of_a_cancelled_row_is_exit_1_with_one_line(rig: Rig) -> None:
    row = await rig.order(status="cancelled")

    ran = await command(rig, "retry", row)

    assert (ran.code, ran.out) == (1, "")
    assert f"{row} is cancelled" in ran.told


@pytest.mark.soak
async def test_backfill_lists_delivers_and_then_finds_nothing_more_to_deliver(rig: Rig) -> None:
    rows = sorted([await rig.order(status="success") for _ in range(3)])
    lost = await add(rig.pool, "success", task_id=rig.kie.add_task(fate="fail"))

    listed = await command(rig, "backfill", "--dry-run")
    before = await rig.pool.fetchval("SELECT count(asset_url) FROM public.generations")
    healed = await command(rig, "backfill")
    for row in rows:
        await rig.prove(row)
    again = await command(rig, "backfill", "--json")

    assert (listed.code, before) == (0, 0)
    assert listed.out.splitlines() == [*sorted([*rows, lost]), "4 to deliver"]
    assert healed.code == 1
    assert "3 delivered, 1 not" in healed.out
    assert "KIE refused the task" in healed.out
    assert again.code == 1
    assert (again.answer["healed"], [one["generation_id"] for one in again.answer["left"]]) == (0, [lost])


async def test_the_log_of_a_command_is_not_on_standard_output(rig: Rig) -> None:
    row = await rig.order()

    ran = await command(rig, "sync", (await state(rig.pool, row))["task_id"], "--json")

    assert [one["word"] for one in ran.answer] == ["delivered"]
    assert "generation.delivered" in [json.loads(line)["event"] for line in ran.err.splitlines()]


async def test_run_is_the_daemon_until_sigterm(rig: Rig, tmp_path: Path) -> None:
    row = await rig.order()
    rig.folder.mkdir(exist_ok=True)

    process = await begin("run", folder=rig.folder, **rig.environment())
    await until(lambda: _delivered(rig, row), 20, "the delivery")
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 20)

    assert (process.returncode, out) == (0, b"")
    assert b"daemon.stopped" in err
    await rig.prove(row)


async def test_observe_stores_and_writes_nothing(rig: Rig) -> None:
    row = await rig.order()
    rig.folder.mkdir(exist_ok=True)
    before = await state(rig.pool, row)

    process = await begin("run", "--observe", folder=rig.folder, **rig.environment())
    await until(lambda: _noted(rig, row), 20, "KIE's success in the bookkeeping")
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 20)

    assert (await state(rig.pool, row))["version"] == before["version"]
    assert rig.keys() == []


async def _delivered(rig: Rig, row: str) -> bool:
    return (await state(rig.pool, row))["status"] == "success"


async def _noted(rig: Rig, row: str) -> bool:
    return "observing" in ((await state(rig.pool, row))["why"] or "")
