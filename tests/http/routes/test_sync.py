"""The sync route: its answers, shared visits, other replicas, and drains."""

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
from tests.http.api import ANN, BOB, ServedApi, opened

SYNC = "/api/kie/sync"


async def sync(client: httpx.AsyncClient, task: str, **query: Any) -> httpx.Response:
    return await client.get(SYNC, params={"taskId": task, **query})


def services_of(api: ServedApi) -> RouteServices:
    assert api.readiness_gate.services is not None
    return api.readiness_gate.services


def record_visits(api: ServedApi, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that records which rows this replica visits from now on."""
    visited: list[str] = []
    once = api.parts.worker.once

    async def recorded(generation_id: str, trigger: Trigger) -> VisitOutcome | None:
        visited.append(generation_id)
        return await once(generation_id, trigger)

    monkeypatch.setattr(api.parts.worker, "once", recorded)
    return visited


async def delivered(pool: Any, row: str) -> bool:
    return bool((await state(pool, row))["status"] == "success")


async def test_a_finished_task_is_delivered_and_returned(pool: Any, kie: Simulator, api: ServedApi) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)

    answer = await sync(api.ann, task)

    asset = f"http://127.0.0.1:9/files/{ANN}/image/{row}_0.png"
    sources = kie.addresses(kie.tasks[task])
    assert (answer.status_code, answer.json()) == (200, {
        "status": "success", "assetUrl": asset, "assetUrls": [asset], "resultUrls": sources, "error": None,
    })  # fmt: skip
    now = await state(pool, row)
    assert (now["status"], now["asset_url"], now["lease"]) == ("success", asset, None)


async def test_a_failure_at_kie_is_returned_with_its_reason(pool: Any, kie: Simulator, api: ServedApi) -> None:
    task = kie.add_task(fate="fail", failure=Failure("422", "nsfw content"))
    await add(pool, user_id=ANN, task_id=task)

    answer = await sync(api.operator, task)

    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert answer.json()["error"] == "nsfw content (422)"


async def test_a_running_task_is_returned_with_its_status(pool: Any, kie: Simulator, api: ServedApi) -> None:
    task = kie.add_task(life=never("waiting"))
    await add(pool, "queued", user_id=ANN, task_id=task)

    answer = await sync(api.ann, task)

    assert (answer.status_code, answer.json()["status"], answer.json()["assetUrls"]) == (200, "queued", [])
    assert kie.counts.records == 1


async def test_an_ended_row_is_returned_at_once_without_a_visit(
    pool: Any, kie: Simulator, api: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = record_visits(api, monkeypatch)
    ours = [f"{OURS}/1.png", f"{OURS}/2.png"]
    ended: dict[str, dict[str, Any]] = {
        "success": {"asset_url": ours[0], "asset_urls": json.dumps(ours), "result_urls": json.dumps([THEIRS])},
        "failed": {"error": "nsfw"},
        "cancelled": {},
    }
    for status, columns in ended.items():
        task = kie.add_task()
        await add(pool, status, user_id=ANN, task_id=task, **columns)
        answer = await sync(api.ann, task)
        assert (answer.status_code, answer.json()["status"]) == (200, status)
        if status == "success":
            assert (answer.json()["assetUrls"], answer.json()["resultUrls"]) == (ours, [THEIRS])
        assert answer.json()["error"] == ("nsfw" if status == "failed" else None)
    assert (visits, kie.counts.records) == ([], 0)


async def test_a_user_cannot_sync_the_task_of_another_or_learn_that_it_exists(
    pool: Any, kie: Simulator, api: ServedApi
) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    nobodys = kie.add_task()
    await add(pool, task_id=nobodys)

    unknown = await sync(api.bob, str(uuid4()))
    for name in (task, nobodys, "\x00", "%", "x" * 1000):
        answer = await sync(api.bob, name)
        same = [{**one.json(), "requestId": ""} for one in (answer, unknown)]
        assert (answer.status_code, same[0]) == (404, same[1]), name
    assert (await sync(api.operator, "\x00")).status_code == 404
    assert (await sync(api.nobody, task)).status_code == 401
    assert ((await state(pool, row))["status"], kie.counts.records) == ("generating", 0)


async def test_of_a_shared_task_only_the_callers_rows_are_visited(pool: Any, kie: Simulator, api: ServedApi) -> None:
    task = kie.add_task()
    his = await add(pool, user_id=BOB, task_id=task)
    older, newer = await add(pool, user_id=ANN, task_id=task, age=HOUR), await add(pool, user_id=ANN, task_id=task)

    answer = await sync(api.ann, task)

    assert answer.json()["assetUrl"].endswith(f"{newer}_0.png")
    assert [(await state(pool, row))["status"] for row in (older, newer, his)] == ["success", "success", "generating"]


async def test_while_kie_is_away_the_answer_is_502(pool: Any, kie: Simulator, api: ServedApi) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    kie.strike("record.http_500", task=task)

    answer = await sync(api.ann, task)

    assert (answer.status_code, answer.json()["error"]) == (502, "kie_unavailable")
    assert (await state(pool, row))["status"] == "generating"
    assert (await sync(api.operator, task)).json()["status"] == "success"


async def test_a_task_that_kie_does_not_know_is_no_502(pool: Any, api: ServedApi) -> None:
    await add(pool, user_id=ANN, task_id="unheard-of")

    answer = await sync(api.ann, "unheard-of")

    assert (answer.status_code, answer.json()["status"]) == (200, "generating")


@pytest.mark.parametrize(
    "query", ["", "taskId=", "taskId=x&wait=61", "taskId=x&wait=-1", "taskId=x&wait=nan", "taskId=x&wait=long"]
)
async def test_an_invalid_query_is_refused(api: ServedApi, query: str) -> None:
    answer = await api.ann.get(f"{SYNC}?{query}")

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_many_requests_at_once_share_one_visit(
    pool: Any, kie: Simulator, api: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = record_visits(api, monkeypatch)
    kie.latency = 0.3
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)

    answers = await asyncio.gather(*(sync(client, task) for client in (api.ann, api.operator) * 4))

    assert [(one.status_code, one.json()["status"]) for one in answers] == [(200, "success")] * 8
    assert (visits, kie.counts.records) == ([row], 1)


async def test_two_replicas_visit_the_row_one_after_the_other(
    rows_dsn: str, pool: Any, kie: Simulator, api: ServedApi, tmp_path: Path
) -> None:
    kie.latency = 0.3
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    async with opened(rows_dsn, kie, tmp_path) as other:
        answers = await asyncio.gather(sync(api.ann, task), sync(other.ann, task))

    assert [(one.status_code, one.json()["status"]) for one in answers] == [(200, "success")] * 2
    assert answers[0].json() == answers[1].json()
    assert kie.counts.records == 1
    assert await pool.fetchval("SELECT count(*) FROM reconciler.events WHERE generation_id = $1", row) == 1


async def test_without_waiting_the_answer_is_202_while_the_work_continues(
    pool: Any, kie: Simulator, api: ServedApi
) -> None:
    kie.latency = 0.3
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)

    answer = await sync(api.ann, task, wait=0)

    assert (answer.status_code, answer.json()["status"]) == (202, "generating")
    assert set(answer.json()) == {"status", "assetUrl", "assetUrls", "resultUrls", "error"}
    await until(lambda: delivered(pool, row), what="the delivery in the background")


async def test_without_waiting_an_ended_row_is_still_200(pool: Any, api: ServedApi) -> None:
    ends: dict[str, dict[str, Any]] = {
        "success": {"asset_url": f"{OURS}/1.png"}, "failed": {"error": "nsfw"}, "cancelled": {},
    }  # fmt: skip
    for status, columns in ends.items():
        await add(pool, status, user_id=ANN, task_id=status, **columns)
        answer = await sync(api.ann, status, wait=0)
        assert (answer.status_code, answer.json()["status"]) == (200, status)


async def test_the_visit_continues_when_the_client_disconnects(pool: Any, kie: Simulator, api: ServedApi) -> None:
    kie.latency = 0.3
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)

    with pytest.raises(httpx.ReadTimeout):
        await api.ann.get(SYNC, params={"taskId": task}, timeout=0.1)

    await until(lambda: delivered(pool, row), what="the delivery without a client")


async def test_a_row_that_was_just_polled_is_polled_again_after_a_pause(
    pool: Any, kie: Simulator, api: ServedApi
) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    await keep(pool, row, seen_task=task, looks=1, looked_at_in=-1.5, due_at_in=60)
    began = time.monotonic()

    answer = await sync(api.ann, task)

    # At least two seconds lie between two polls.
    assert (answer.json()["status"], time.monotonic() - began > 0.3) == ("success", True)


async def test_a_row_that_another_instance_holds_is_202(pool: Any, kie: Simulator, api: ServedApi) -> None:
    row = await add(pool, user_id=ANN)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=30)

    answer = await sync(api.ann, "task", wait=0.1)

    assert (answer.status_code, answer.json()["status"], kie.counts.records) == (202, "generating", 0)


async def test_a_drain_lets_a_running_sync_finish(pool: Any, kie: Simulator, api: ServedApi) -> None:
    kie.latency = 0.3
    task = kie.add_task()
    await add(pool, user_id=ANN, task_id=task)
    request = asyncio.create_task(sync(api.ann, task))
    await until(lambda: api.parts.worker._visits, what="the visit")

    await api.parts.worker.drain(10)

    answer = await request
    assert (answer.status_code, answer.json()["status"]) == (200, "success")


async def test_a_sync_that_a_drain_cancels_is_202(pool: Any, kie: Simulator, api: ServedApi) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    kie.strike("record.hang")
    request = asyncio.create_task(sync(api.ann, task))
    await until(lambda: kie.counts.faults["record.hang"], what="KIE is asked")

    await api.parts.worker.drain(0)

    answer = await request
    assert (answer.status_code, answer.json()["status"]) == (202, "generating")
    assert (await state(pool, row))["lease"] is None


async def test_a_drain_ends_the_wait_for_another_replica(pool: Any, api: ServedApi) -> None:
    row = await add(pool, user_id=ANN)
    await keep(pool, row, lease=uuid4(), instance=uuid4(), lease_until_in=30)
    request = asyncio.create_task(sync(api.ann, "task"))

    async def woken() -> bool:
        return bool((await state(pool, row))["woken"])

    await until(woken, what="the holder is woken")
    await api.parts.worker.drain(0)

    async with asyncio.timeout(5):
        assert (await request).status_code == 202


async def test_a_drain_ends_the_pause_between_two_polls(pool: Any, kie: Simulator, api: ServedApi) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    # The last poll lies in the future, so the pause has just begun.
    await keep(pool, row, seen_task=task, looks=1, looked_at_in=3600, due_at_in=60)
    api.readiness_gate.services = replace(
        services_of(api), single_flight=SingleFlight(replace(services_of(api).operator, pause=3600))
    )
    assert (await sync(api.ann, task, wait=0.1)).status_code == 202

    request = asyncio.create_task(sync(api.ann, task))
    await api.parts.worker.drain(0)

    async with asyncio.timeout(5):
        assert (await request).status_code == 503
    assert kie.counts.records == 0


async def test_a_draining_daemon_starts_no_sync(pool: Any, kie: Simulator, api: ServedApi) -> None:
    task = kie.add_task()
    row = await add(pool, user_id=ANN, task_id=task)
    await api.parts.worker.drain(0)

    answer = await sync(api.ann, task)

    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert ((await state(pool, row))["lease"], kie.counts.records) == (None, 0)


async def test_a_visit_that_fails_after_its_client_has_gone_is_logged(
    pool: Any, api: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await add(pool, user_id=ANN)
    release = asyncio.Event()

    async def broken(*_: object) -> None:
        await release.wait()
        raise ZeroDivisionError

    monkeypatch.setattr(api.parts.worker, "once", broken)
    with structlog.testing.capture_logs() as lines:
        assert (await sync(api.ann, "task", wait=0)).status_code == 202
        release.set()
        await until(lambda: [one for one in lines if one["event"] == "sync.interrupted"], what="the line")

    (line,) = [one for one in lines if one["event"] == "sync.interrupted"]
    assert (line["generation_id"], line["reason"]) == (row, "ZeroDivisionError")
