"""A task reconciled because somebody asks over HTTP: what they hear, whom else it concerns, who else is at it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import structlog

from reconciler.domain.model import Trigger
from reconciler.http.readiness_gate import RouteServices
from reconciler.operations.single_flight import SingleFlight
from reconciler.simulator import Failure, Simulator, never
from reconciler.worker.visit import VisitOutcome
from testkit.rows import HOUR, OURS, THEIRS, add, keep, state
from testkit.waiting import until
from tests.http.api import ANN, BOB, Face, opened

SYNC = "/api/kie/sync"


async def sync(client: httpx.AsyncClient, task: str, **query: Any) -> httpx.Response:
    return await client.get(SYNC, params={"taskId": task, **query})


def inside_of(face: Face) -> RouteServices:
    assert face.entrance.inside is not None
    return face.entrance.inside


def counted(face: Face, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which rows this replica tries to visit from now on."""
    tried: list[str] = []
    once = face.built.work.once

    async def noted(generation_id: str, trigger: Trigger) -> VisitOutcome | None:
        tried.append(generation_id)
        return await once(generation_id, trigger)

    monkeypatch.setattr(face.built.work, "once", noted)
    return tried


async def delivered(pool: Any, row: str) -> bool:
    return bool((await state(pool, row))["status"] == "success")


async def test_a_finished_task_is_delivered_and_told(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)

    answer = await sync(face.ann, task)

    asset = f"http://127.0.0.1:9/files/{ANN}/image/{row}_0.png"
    sources = kie.addresses(kie.tasks[task])
    assert (answer.status_code, answer.json()) == (200, {
        "status": "success", "assetUrl": asset, "assetUrls": [asset], "resultUrls": sources, "error": None,
    })  # fmt: skip
    now = await state(pool, row)
    assert (now["status"], now["asset_url"], now["lease"]) == ("success", asset, None)


async def test_kies_refusal_is_told(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task(fate="fail", failure=Failure("422", "nsfw content"))
    await add(pool, user_id=ANN, task_id=task)

    answer = await sync(face.operator, task)

    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert answer.json()["error"] == "nsfw content (422)"


async def test_a_task_that_still_runs_is_told_as_it_stands(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task(life=never("waiting"))
    await add(pool, "queued", user_id=ANN, task_id=task)

    answer = await sync(face.ann, task)

    assert (answer.status_code, answer.json()["status"], answer.json()["assetUrls"]) == (200, "queued", [])
    assert kie.counts.records == 1


async def test_what_has_ended_is_told_at_once_and_not_visited(
    pool: Any, kie: Simulator, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = counted(face, monkeypatch)
    ours = [f"{OURS}/1.png", f"{OURS}/2.png"]
    wanted: dict[str, dict[str, Any]] = {
        "success": {"asset_url": ours[0], "asset_urls": json.dumps(ours), "result_urls": json.dumps([THEIRS])},
        "failed": {"error": "nsfw"},
        "cancelled": {},
    }
    for status, columns in wanted.items():
        task = kie.add_task()
        await add(pool, status, user_id=ANN, task_id=task, **columns)
        answer = await sync(face.ann, task)
        assert (answer.status_code, answer.json()["status"]) == (200, status)
        if status == "success":
            assert (answer.json()["assetUrls"], answer.json()["resultUrls"]) == (ours, [THEIRS])
        assert answer.json()["error"] == ("nsfw" if status == "failed" else None)
    assert (visits, kie.counts.records) == ([], 0)


async def test_nobody_syncs_anothers_task_or_learns_of_it(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    nobodys = kie.add_task()
    await add(pool, task_id=nobodys)

    unknown = await sync(face.bob, str(uuid4()))
    for name in (task, nobodys, "\x00", "%", "x" * 1000):
        answer = await sync(face.bob, name)
        same = [{**one.json(), "requestId": ""} for one in (answer, unknown)]
        assert (answer.status_code, same[0]) == (404, same[1]), name
    assert (await sync(face.operator, "\x00")).status_code == 404
    assert (await sync(face.nobody, task)).status_code == 401
    assert ((await state(pool, row))["status"], kie.counts.records) == ("generating", 0)


async def test_of_a_shared_task_only_ones_own_rows_are_moved(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task()
    his = await add(pool, user_id=BOB, task_id=task)
    older, newer = await add(pool, user_id=ANN, task_id=task, age=HOUR), await add(pool, user_id=ANN, task_id=task)

    answer = await sync(face.ann, task)

    assert answer.json()["assetUrl"].endswith(f"{newer}_0.png")
    assert [(await state(pool, row))["status"] for row in (older, newer, his)] == ["success", "success", "generating"]


async def test_where_kie_cannot_be_asked_that_is_said(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    kie.strike("record.http_500", task=task)

    answer = await sync(face.ann, task)

    assert (answer.status_code, answer.json()["error"]) == (502, "kie_unavailable")
    assert (await state(pool, row))["status"] == "generating"
    assert (await sync(face.ann, task)).json()["status"] == "success"


async def test_that_kie_does_not_know_a_task_is_no_trouble_with_kie(pool: Any, face: Face) -> None:
    await add(pool, user_id=ANN, task_id="unheard-of")

    answer = await sync(face.ann, "unheard-of")

    assert (answer.status_code, answer.json()["status"]) == (200, "generating")


@pytest.mark.parametrize(
    "query", ["", "taskId=", "taskId=x&wait=61", "taskId=x&wait=-1", "taskId=x&wait=nan", "taskId=x&wait=long"]
)
async def test_what_cannot_be_asked_is_refused(face: Face, query: str) -> None:
    answer = await face.ann.get(f"{SYNC}?{query}")

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_many_who_ask_at_once_share_one_visit(
    pool: Any, kie: Simulator, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = counted(face, monkeypatch)
    kie.latency = 0.3
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)

    answers = await asyncio.gather(*(sync(client, task) for client in (face.ann, face.operator) * 4))

    assert [(one.status_code, one.json()["status"]) for one in answers] == [(200, "success")] * 8
    assert (visits, kie.counts.records) == ([row], 1)


async def test_two_replicas_visit_one_after_the_other(
    rows_dsn: str, pool: Any, kie: Simulator, face: Face, tmp_path: Path
) -> None:
    kie.latency = 0.3
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    async with opened(rows_dsn, kie, tmp_path) as other:
        answers = await asyncio.gather(sync(face.ann, task), sync(other.ann, task))

    assert [(one.status_code, one.json()["status"]) for one in answers] == [(200, "success")] * 2
    assert answers[0].json() == answers[1].json()
    assert kie.counts.records == 1
    assert await pool.fetchval("SELECT count(*) FROM reconciler.events WHERE generation_id = $1", row) == 1


async def test_whoever_does_not_wait_hears_that_the_work_goes_on(pool: Any, kie: Simulator, face: Face) -> None:
    kie.latency = 0.3
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)

    answer = await sync(face.ann, task, wait=0)

    assert (answer.status_code, answer.json()["status"]) == (202, "generating")
    assert set(answer.json()) == {"status", "assetUrl", "assetUrls", "resultUrls", "error"}
    await until(lambda: delivered(pool, row), what="the delivery in the background")


async def test_whoever_does_not_wait_hears_of_an_end_as_an_end(pool: Any, face: Face) -> None:
    ends: dict[str, dict[str, Any]] = {
        "success": {"asset_url": f"{OURS}/1.png"}, "failed": {"error": "nsfw"}, "cancelled": {},
    }  # fmt: skip
    for status, columns in ends.items():
        await add(pool, status, user_id=ANN, task_id=status, **columns)
        answer = await sync(face.ann, status, wait=0)
        assert (answer.status_code, answer.json()["status"]) == (200, status)


async def test_whoever_goes_away_leaves_the_visit_going(pool: Any, kie: Simulator, face: Face) -> None:
    kie.latency = 0.3
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)

    with pytest.raises(httpx.ReadTimeout):
        await face.ann.get(SYNC, params={"taskId": task}, timeout=0.1)

    await until(lambda: delivered(pool, row), what="the delivery that nobody waits for")


async def test_a_row_that_was_just_asked_about_is_not_asked_about_at_once(
    pool: Any, kie: Simulator, face: Face
) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    await keep(pool, row, seen_task=task, looks=1, looked_at_in=-1.5, due_at_in=60)
    began = time.monotonic()

    answer = await sync(face.ann, task)

    # Two seconds lie between two looks.
    assert (answer.json()["status"], time.monotonic() - began > 0.3) == ("success", True)


async def test_a_row_in_anothers_hands_is_told_as_going_on(pool: Any, kie: Simulator, face: Face) -> None:
    row = await add(pool, user_id=ANN)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=30)

    answer = await sync(face.ann, "task", wait=0.1)

    assert (answer.status_code, answer.json()["status"], kie.counts.records) == (202, "generating", 0)


async def test_a_drain_lets_a_sync_end(pool: Any, kie: Simulator, face: Face) -> None:
    kie.latency = 0.3
    task = kie.add_task()
    await add(pool, user_id=ANN, task_id=task)
    asking = asyncio.create_task(sync(face.ann, task))
    await until(lambda: face.built.work._held, what="the visit")

    await face.built.work.drain(10)

    answer = await asking
    assert (answer.status_code, answer.json()["status"]) == (200, "success")


async def test_a_sync_that_a_drain_cuts_says_that_the_work_goes_on(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    kie.strike("record.hang")
    asking = asyncio.create_task(sync(face.ann, task))
    await until(lambda: kie.counts.faults["record.hang"], what="KIE is asked")

    await face.built.work.drain(0)

    answer = await asking
    assert (answer.status_code, answer.json()["status"]) == (202, "generating")
    assert (await state(pool, row))["lease"] is None


async def test_a_drain_ends_the_wait_for_another_replica(pool: Any, face: Face) -> None:
    row = await add(pool, user_id=ANN)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=30)
    asking = asyncio.create_task(sync(face.ann, "task"))

    async def woken() -> bool:
        return bool((await state(pool, row))["woken"])

    await until(woken, what="the holder is woken")
    await face.built.work.drain(0)

    async with asyncio.timeout(5):
        assert (await asking).status_code == 202


async def test_a_drain_ends_the_pause_between_two_looks(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    # As far as the pause knows, the last look has just begun.
    await keep(pool, row, seen_task=task, looks=1, looked_at_in=3600, due_at_in=60)
    face.entrance.inside = replace(inside_of(face), syncs=SingleFlight(replace(inside_of(face).operator, pause=3600)))
    assert (await sync(face.ann, task, wait=0.1)).status_code == 202

    asking = asyncio.create_task(sync(face.ann, task))
    await face.built.work.drain(0)

    async with asyncio.timeout(5):
        assert (await asking).status_code == 503
    assert kie.counts.records == 0


async def test_nothing_is_begun_while_the_daemon_drains(pool: Any, kie: Simulator, face: Face) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    await face.built.work.drain(0)

    answer = await sync(face.ann, task)

    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert ((await state(pool, row))["lease"], kie.counts.records) == (None, 0)


async def test_a_visit_that_breaks_after_its_asker_has_gone_is_told_in_the_log(
    pool: Any, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await add(pool, user_id=ANN)
    release = asyncio.Event()

    async def broken(*_: object) -> None:
        await release.wait()
        raise ZeroDivisionError

    monkeypatch.setattr(face.built.work, "once", broken)
    with structlog.testing.capture_logs() as lines:
        assert (await sync(face.ann, "task", wait=0)).status_code == 202
        release.set()
        await until(lambda: [one for one in lines if one["event"] == "sync.interrupted"], what="the line")

    (line,) = [one for one in lines if one["event"] == "sync.interrupted"]
    assert (line["generation_id"], line["reason"]) == (row, "ZeroDivisionError")
