"""The heartbeat: what the other replicas see of this one, and which of them leads."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest

from reconciler.bootstrap import Parts
from reconciler.bootstrap.periodic import LASTING_SECONDS
from reconciler.domain.model import Trigger
from reconciler.errors import Config, Transient
from reconciler.operations.diagnosis import State
from reconciler.operations.explain import diagnosed
from reconciler.postgres.heartbeat import HeartbeatResult
from reconciler.postgres.reports.activity import ActivityReader
from reconciler.postgres.reports.generation_details import GenerationDetails
from reconciler.worker.deliver import TransferProgress
from reconciler.worker.periodic.leadership import Leadership
from testkit.rows import HOUR
from testkit.waiting import until
from tests.worker.periodic.daemon_tasks import built, task
from tests.worker.rig import Rig


async def test_a_replica_shows_what_it_does_each_second_only_while_it_is_watched(rig: Rig, parts: Parts) -> None:
    seen = "SELECT seen_at FROM reconciler.instances"
    periodic = built(parts)
    show = task(periodic, "show")
    await periodic.heartbeat.run_once()
    first = await rig.pool.fetchval(seen)
    await show.run_once()
    assert await rig.pool.fetchval(seen) == first

    await ActivityReader(parts.database, alive=HOUR).watch()
    await periodic.heartbeat.run_once()
    second = await rig.pool.fetchval(seen)
    await show.run_once()
    third = await rig.pool.fetchval(seen)
    assert first < second < third

    await rig.pool.execute("UPDATE reconciler.watching SET until = now()")
    await show.run_once()
    fourth = await rig.pool.fetchval(seen)
    await show.run_once()
    assert third < fourth == await rig.pool.fetchval(seen)


async def test_a_step_that_lasts_is_shown_each_second_and_its_end_once(rig: Rig, parts: Parts) -> None:
    seen = "SELECT seen_at FROM reconciler.instances"
    report = "SELECT jsonb_array_length(doing -> 'transfers') FROM reconciler.instances"
    periodic = built(parts)
    show = task(periodic, "show")
    await periodic.heartbeat.run_once()
    first = await rig.pool.fetchval(seen)
    progress = parts.deliverer._under_way["g"] = TransferProgress("g", 0)
    await show.run_once()
    assert await rig.pool.fetchval(seen) == first, "short steps cost no write"

    progress._began -= LASTING_SECONDS
    await show.run_once()
    second = await rig.pool.fetchval(seen)
    await show.run_once()
    third = await rig.pool.fetchval(seen)
    assert first < second < third
    assert await rig.pool.fetchval(report) == 1

    del parts.deliverer._under_way["g"]
    await show.run_once()
    fourth = await rig.pool.fetchval(seen)
    assert await rig.pool.fetchval(report) == 0
    await show.run_once()
    assert third < fourth == await rig.pool.fetchval(seen)


async def test_a_request_that_kie_does_not_answer_is_shown_with_the_row_that_it_is_about(
    rig: Rig, parts: Parts
) -> None:
    task_id = rig.kie.add_task()
    generation_id = await rig.insert(task_id)
    rig.kie.strike("record.hang", task=task_id)
    periodic = built(parts)
    visit = asyncio.create_task(parts.worker.once(generation_id, Trigger.SYNC))

    async def asking() -> GenerationDetails | None:
        await task(periodic, "show").run_once()
        details = await parts.reports.details(generation_id)
        return details if details is not None and details.asking is not None else None

    details = await until(asking, 8, "a report of the request")
    found = diagnosed(details, parts.settings)
    assert found.state == State.ASKING
    assert found.cause.startswith("KIE has been asked about it and has not answered for ")
    assert details.asking is not None
    assert details.asking >= LASTING_SECONDS
    visit.cancel()
    await asyncio.gather(visit, return_exceptions=True)
    assert parts.worker.visitor.poller.under_way == {}


async def test_a_version_that_is_too_old_for_the_database_raises_config_with_the_next_heartbeat(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def beat(_: object) -> HeartbeatResult:
        return HeartbeatResult(watched=False, required_version="9.0.0")

    heartbeat = built(parts).heartbeat
    ends = asyncio.create_task(heartbeat.until_outdated())
    await heartbeat.run_once()
    assert not ends.done()
    monkeypatch.setattr(heartbeat.heartbeat, "beat", beat)
    await heartbeat.run_once()
    with pytest.raises(Config, match=r"this database needs kie-reconciler 9\.0\.0 or newer"):
        await ends


async def test_a_leader_that_gets_no_answer_leads_until_its_trust_window_ends(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> bool:
        raise Transient("the database is away", code="database_away")

    periodic = built(parts)
    heartbeat, leadership = periodic.heartbeat, periodic.heartbeat.leadership
    await heartbeat.run_once()
    assert leadership.leads
    monkeypatch.setattr(heartbeat.heartbeat, "lead", away)
    with pytest.raises(Transient):
        await heartbeat.run_once()
    assert leadership.leads
    leadership._leads_until -= 2 * task(periodic, "attend").interval
    assert not leadership.leads


@pytest.mark.parametrize(("now", "leads"), [(119.9, True), (120.0, False)])
def test_the_trust_window_begins_before_the_question(now: float, leads: bool) -> None:
    leadership = Leadership(trust_window=20.0)
    leadership.record(True, asked_at=100.0)
    with mock.patch("reconciler.worker.periodic.leadership.boottime", return_value=now):
        assert leadership.leads is leads
        leadership.record(False, asked_at=now)
        assert not leadership.leads
