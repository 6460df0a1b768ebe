"""The scheduler: every task runs at its interval, and one that fails never holds up another."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from reconciler.bootstrap import Parts
from testkit.waiting import until
from tests.worker.periodic.daemon_tasks import built, running, task
from tests.worker.rig import Rig


async def test_a_task_that_breaks_runs_again_and_breaks_no_other(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0

    async def breaks(_: object) -> None:
        nonlocal failures
        failures += 1
        raise ZeroDivisionError

    periodic = built(parts, sweep=0.3)
    task(periodic, "attend").interval = 0.1
    monkeypatch.setattr(periodic.heartbeat.heartbeat, "beat", breaks)
    async with rig.working(parts):
        with capture_logs() as lines:
            async with running(periodic):
                generation_id = await rig.order()
                await rig.delivered(generation_id, within=5)
                await until(lambda: failures >= 2, what="the broken task runs again")
    assert {line["round"] for line in lines if line["event"] == "round.broke"} == {"attend"}


async def test_a_sweep_that_does_not_end_stops_no_pulse(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    never = asyncio.Event()
    monkeypatch.setattr(parts.claims, "discover", never.wait)
    periodic = built(parts)
    periodic.sweep._finished_at -= 100
    async with running(periodic):
        before = periodic.pulse.at
        await until(lambda: periodic.pulse.at > before + 1.5, what="a pulse that goes on")
        assert not periodic.sweep.finished


async def test_memory_is_given_back_again_and_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    collections: list[None] = []
    monkeypatch.setattr("reconciler.malloc.gc.collect", lambda: collections.append(None))
    periodic = built(parts)
    task(periodic, "tidy").interval = 0.05
    async with running(periodic):
        await until(lambda: len(collections) > 2, what="a third time")


async def test_a_stopped_scheduler_starts_no_run(rig: Rig, parts: Parts) -> None:
    async with running(built(parts, sweep=0.2)) as periodic:
        await until(lambda: parts.metrics.last_sweep._value.get() > 0, what="a sweep")
    await until(lambda: not periodic.scheduler.running, what="the end")


async def test_a_run_that_a_stop_cancels_is_no_error_in_the_log(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def endless() -> int:
        began.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    monkeypatch.setattr(parts.claims, "discover", endless)
    async with running(built(parts)):
        await until(began.is_set, what="a sweep")
    await until(cancelled.is_set, what="the cancellation")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_log_calls_every_task_by_its_documented_name(parts: Parts) -> None:
    assert set(built(parts).scheduler.tasks) == {
        "beat", "make_up", "sweep", "attend", "show", "audit", "tidy",
        "snapshot", "stuck", "pace", "credit", "bucket", "upkeep", "hooks",
    }  # fmt: skip
