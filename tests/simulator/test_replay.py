"""Recorded tasks are replayed as recorded, and the simulator runs as its own process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from reconciler.errors import Config
from reconciler.simulator import Simulator, replay
from reconciler.simulator.api.requirements import check_strictly
from reconciler.simulator.records.dialects import DIALECTS
from tests.simulator.client import asking

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = ROOT.parent / "shared" / "kie-recordings"
CLOSE = 0.5
"""Seconds around a task's end in which the two clocks of a recording do not tell the order."""
TIMES = ("createTime", "completeTime", "costTime")

needs_recordings = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not beside the repository")


def recorded() -> list[dict]:
    files = [json.loads(path.read_text()) for path in sorted(RECORDINGS.glob("*.json"))]
    return [one for one in files if isinstance(one, dict)]


def settled(record: dict) -> dict:
    """Return a record without the parts that a replay changes: the times and the host of the results."""
    told = {name: value for name, value in record.items() if name not in TIMES}
    if told["resultJson"]:
        urls = json.loads(told["resultJson"])["resultUrls"]
        told["resultJson"] = [urlsplit(url).path for url in urls]
    return told


@needs_recordings
async def test_every_poll_of_every_recording_is_answered_as_recorded() -> None:
    async with Simulator(limits=False, media_size=1000) as kie, asking(kie) as ask:
        for whole in recorded():
            (task,) = replay.play(kie, [one for one in replay.load(RECORDINGS) if one.task_id == whole["task_id"]])
            passed, begun, expected = 0.0, whole["polls"][0]["at"], {}
            for poll in whole["polls"]:
                age = poll["at"] - begun
                kie.skip(age - passed)
                passed, expected = age, poll.get("body", {}).get("data", expected)
                if abs(age - kie.tasks[task].life.seconds) > CLOSE:
                    said = (await ask.record(task))[1]["data"]
                    assert list(said) == list(expected)
                    assert settled(said) == settled(expected)
            kie.skip(CLOSE * 2)
            said = (await ask.record(task))[1]["data"]
            assert settled(said) == settled(expected)
            assert abs(said["costTime"] - expected["costTime"]) <= 1


@needs_recordings
async def test_a_replayed_tasks_results_have_the_recorded_paths_on_the_simulators_host() -> None:
    async with Simulator(media_size=2000) as kie, asking(kie) as ask:
        for task in replay.play(kie, replay.load(RECORDINGS)):
            kie.end(task)
            for n, address in enumerate(kie.addresses(kie.tasks[task])):
                assert address.startswith(kie.files_url)
                async with ask.session.get(address) as answer:
                    assert (answer.status, answer.content_type) == (200, kie.file(task, n).mime)


@needs_recordings
async def test_a_new_task_of_a_recorded_model_takes_the_recorded_course() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        replay.play(kie, replay.load(RECORDINGS))
        _, made = await ask.post("/api/v1/jobs/createTask", {"model": "grok-imagine/text-to-image", "input": {}})
        task = kie.tasks[made["data"]["taskId"]]
        assert (len(task.results), int(task.life.seconds)) == (6, 12)


@needs_recordings
def test_every_recorded_request_is_accepted_by_the_strict_checks() -> None:
    market = DIALECTS["market"]
    for whole in recorded():
        param = json.loads([poll["body"] for poll in whole["polls"] if "body" in poll][-1]["data"]["param"])
        body = {"model": param["model"], "input": json.loads(param["input"])}
        assert check_strictly(market.creates[0], market, body) is None


def test_a_recorded_failure_is_replayed_as_a_failure(tmp_path: Path) -> None:
    said = {
        "model": "m", "param": "{}", "resultJson": "", "state": "waiting", "createTime": 1000, "completeTime": None,
        "failCode": None, "failMsg": None,
    }  # fmt: skip
    end = said | {"state": "fail", "failCode": "422", "failMsg": "no", "completeTime": 31000}
    polls = [
        {"at": 0.5, "body": {"data": said}},
        {"at": 5, "same_as_previous": True},
        {"at": 40, "body": {"data": end}},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"task_id": "t", "polls": polls}))
    (tmp_path / "b.json").write_text("[]")
    kie = Simulator()
    assert replay.play(kie, replay.load(tmp_path)) == ["t"]
    task = kie.tasks["t"]
    assert (task.life.steps, task.life.end, task.failure.message) == ((("waiting", 30.0),), "fail", "no")


async def test_it_runs_as_a_process_prints_its_address_and_stops_at_a_signal() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reconciler.simulator", "--speed", "50", "--media-size", "1000", "--key", "k",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer k"}) as client:
            made = (await client.post("/api/v1/jobs/createTask", json={"model": "m", "input": {}})).json()
            told = await client.get("/api/v1/jobs/recordInfo", params={"taskId": made["data"]["taskId"]})
            assert told.json()["data"]["model"] == "m"
            for _ in range(2):
                body = {"model": "m", "input": {}, "callBackUrl": "https://shop.example/cb?secret=s"}
                await client.post("/api/v1/jobs/createTask", json=body)
    finally:
        process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, errors.decode()) == (
        0,
        "no callbacks to 'shop.example': allow them by --callback-hosts\n",
    )


@pytest.mark.parametrize(
    "text", ['{"polls": [', '{"polls": [{"at": 1}]}', '{"polls": [{"at": "soon", "body": {"data": {}}}]}']
)
def test_an_invalid_recording_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "torn.json").write_text(text)
    with pytest.raises(Config, match=r"torn\.json"):
        replay.load(tmp_path)


def test_a_recording_that_is_no_text_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_bytes(b"\xff")
    with pytest.raises(Config, match=r"torn\.json"):
        replay.load(tmp_path)
