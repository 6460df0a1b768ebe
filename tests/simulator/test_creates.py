"""Every path that creates a task: what it requires, how it refuses, and which task it makes."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from reconciler.simulator import Simulator
from reconciler.simulator.api.models import MODELS
from reconciler.simulator.api.requirements import CALLBACK_PATHS, PARENTS, REQUIRED
from reconciler.simulator.faults import FAULTS
from reconciler.simulator.records.dialects import DIALECTS
from tests.simulator.client import Asking, asking

MARKET = "/api/v1/jobs/createTask"
CALLBACK = "http://127.0.0.1:9/"
DEDICATED = sorted(
    (family.name, path) for family in DIALECTS.values() if family.name != "market" for path in family.creates
)
PART_10 = """
veo/generate veo/extend veo/get-4k-video generate generate/extend generate/upload-cover generate/upload-extend
generate/add-vocals generate/add-instrumental generate/mashup generate/sounds generate/replace-section lyrics
wav/generate vocal-removal/generate midi/generate mp4/generate suno/cover/generate voice/validate voice/generate
runway/generate runway/extend aleph/generate gpt4o-image/generate flux/kontext/generate mj/generate modify/generate
jobs/createTask
"""


def whole(kie: Simulator, path: str) -> dict[str, Any]:
    """A request with everything that the path requires."""
    body: dict[str, Any] = dict.fromkeys(REQUIRED[path], "x")
    if path in PARENTS:
        body["taskId"] = kie.add_task(family=PARENTS[path])
    if path in CALLBACK_PATHS:
        body["callBackUrl"] = CALLBACK
    return body | ({"customMode": False, "instrumental": False, "prompt": "x"} if path == "/api/v1/generate" else {})


def test_there_is_a_route_for_every_path_that_creates() -> None:
    paths = {path for family in DIALECTS.values() for path in family.creates}
    assert {f"/api/v1/{path}" for path in PART_10.split()} - paths == set()


@pytest.mark.parametrize(("name", "path"), DEDICATED)
async def test_a_whole_request_makes_a_task_of_its_dialect_that_its_page_knows(name: str, path: str) -> None:
    async with Simulator(strict=True) as kie, asking(kie) as ask:
        status, made = await ask.post(path, whole(kie, path))
        assert (status, made["code"]) == (200, 200), made
        task = made["data"]["taskId"]
        assert kie.tasks[task].family == name
        assert (await ask.record(task))[1]["data"]["taskId"] == task
        kie.end(task)
        assert (await ask.record(task))[1]["code"] == 200


@pytest.mark.parametrize(("name", "path"), DEDICATED)
async def test_a_request_without_a_required_field_makes_no_task(name: str, path: str) -> None:
    async with Simulator(strict=True, limits=False) as kie, asking(kie) as ask:
        body = whole(kie, path)
        there = len(kie.tasks)
        for field in {*REQUIRED[path], *({"callBackUrl"} if path in CALLBACK_PATHS else ())}:
            _, answer = await ask.post(path, {key: value for key, value in body.items() if key != field})
            assert (answer["code"], answer["data"]) == (422, None)
            assert field in answer["msg"]
        assert len(kie.tasks) == there


@pytest.mark.parametrize("path", sorted(PARENTS))
async def test_the_earlier_task_must_be_of_the_right_dialect_and_of_the_same_key(path: str) -> None:
    async with Simulator(strict=True) as kie, asking(kie) as ask, asking(kie, "another") as other:
        body = whole(kie, path)
        for parent in ("nobody", kie.add_task(family="market"), kie.add_task(family=PARENTS[path], key="another")):
            assert (await ask.post(path, {**body, "taskId": parent}))[1]["code"] == 422
        kie.tasks[body["taskId"]].key = "key"
        assert (await other.post(path, body))[1]["code"] == 422
        assert (await ask.post(path, body))[1]["code"] == 200


async def test_every_model_of_the_market_is_made_and_asks_for_its_inputs() -> None:
    async with Simulator(strict=True, limits=False, media_size=1000) as kie, asking(kie) as ask:
        assert len(MODELS) > 140
        for model, required in MODELS.items():
            inputs = dict.fromkeys(required, "x")
            made = (await ask.post(MARKET, {"model": model, "input": inputs}))[1]
            assert made["code"] == 200, model
            kie.end(made["data"]["taskId"])
            record = (await ask.record(made["data"]["taskId"]))[1]["data"]
            assert (record["state"], record["model"]) == ("success", model)
            assert json.loads(record["resultJson"])
            for field in inputs:
                rest = {key: value for key, value in inputs.items() if key != field}
                answer = (await ask.post(MARKET, {"model": model, "input": rest}))[1]
                assert answer == {"code": 500, "msg": f"{field} is required", "data": None}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "no-such-model", "input": {}}, "not supported"),
        ({"model": "sora-2-text-to-video", "input": {}}, "not published"),
        ({"input": {}}, "model is required"),
        ({"model": "nano-banana-2"}, "input is required"),
        ([], "model is required"),
    ],
)
async def test_an_unknown_model_or_a_missing_input_is_422(body: object, said: str) -> None:
    async with Simulator(strict=True) as kie, asking(kie) as ask:
        status, answer = await ask.post(MARKET, body)
        assert (status, answer["code"], answer["data"]) == (200, 422, None)
        assert said in answer["msg"]
        assert not kie.tasks


@pytest.mark.parametrize(
    ("body", "missing"), [({"customMode": True, "prompt": "x"}, "style"), ({"customMode": False}, "prompt")]
)
async def test_music_needs_a_style_in_custom_mode_and_a_prompt_otherwise(body: dict[str, Any], missing: str) -> None:
    async with Simulator(strict=True) as kie, asking(kie) as ask:
        request = {"instrumental": False, "model": "V5", "callBackUrl": CALLBACK, **body}
        assert (await ask.post("/api/v1/generate", request))[1]["msg"] == f"{missing} is required"


async def test_a_4k_film_is_a_task_of_its_own_whose_record_has_no_fallback_flag() -> None:
    async with Simulator(strict=True) as kie, asking(kie) as ask:
        made = (await ask.post("/api/v1/veo/get-4k-video", {"taskId": kie.add_task(family="veo")}))[1]["data"]
        assert (made["resultUrls"], made["imageUrls"]) == (None, None)
        kie.end(made["taskId"])
        record = (await ask.record(made["taskId"]))[1]["data"]
        assert "fallbackFlag" not in record
        assert record["response"]["resolution"] == "4k"
        assert len(record["response"]["mediaIds"]) == 1


async def test_a_1080p_film_is_another_file_and_is_ready_some_time_after_the_first() -> None:
    async with Simulator(speed=0.001, media_size=2000) as kie, asking(kie) as ask:
        task = (await ask.post("/api/v1/veo/generate", {"prompt": "a lake"}))[1]["data"]["taskId"]
        path = "/api/v1/veo/get-1080p-video"
        kie.end(task)
        assert (await ask.get(path, taskId=task))[1]["code"] == 422
        kie.skip(90)
        film = (await ask.get(path, taskId=task, index="0"))[1]["data"]["resultUrl"]
        assert film != (await ask.record(task))[1]["data"]["response"]["resultUrls"][0]
        async with ask.session.get(film) as answer:
            assert (answer.status, answer.content_type, len(await answer.read())) == (200, "video/mp4", 2000)
        assert (await ask.get(path, taskId=task, index="1"))[1]["code"] == 422


async def test_a_style_is_answered_inline() -> None:
    async with Simulator(credits=10.0) as kie, asking(kie) as ask:
        answer = (await ask.post("/api/v1/style/generate", {"content": "Pop, Mysterious"}))[1]
        told = answer["data"]
        assert (answer["code"], told["param"], told["successFlag"]) == (200, "Pop, Mysterious", "成功")
        assert (told["creditsConsumed"], told["creditsRemaining"]) == (0.4, 9.6)
        assert "Pop, Mysterious" in told["result"]
        assert (await ask.post("/api/v1/style/generate", {}))[1]["code"] == 422
        assert not kie.tasks


async def test_a_request_of_several_mebibytes_is_too_large() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        body = {"model": "m", "input": {"image": "x" * (2 << 20)}}
        status, answer = await ask.post(MARKET, body)
        assert (status, answer["code"], answer["msg"]) == (200, 500, "The input image is too large")
        assert not kie.tasks


CREATED = {"record_id": "recordId", "task_id": "task_id", "code_zero": "taskId", "code_string": "taskId"}
CUT = {"lost", "reset"}


async def made_by(ask: Asking, fault: str) -> tuple[int, Any]:
    ask.kie.strike(f"create.{fault}")
    return await ask.post(MARKET, {"model": "nano-banana-2", "input": {"prompt": "x"}})


@pytest.mark.parametrize("fault", sorted(FAULTS["create"] - CUT - set(CREATED) - {"html_502"}))
async def test_a_refusal_on_demand_makes_no_task_and_the_next_request_does(fault: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        status, answer = await made_by(ask, fault)
        assert status == (429 if fault == "http_429" else 200)
        number = fault.rpartition("_")[2]
        assert answer["code"] == (int(number) if number.isdigit() else 429 if fault == "frequency" else 422)
        assert answer["data"] is None
        assert not kie.tasks
        assert (await ask.post(MARKET, {"model": "m", "input": {}}))[1]["code"] == 200


@pytest.mark.parametrize("fault", sorted(CREATED))
async def test_an_unusual_acceptance_names_the_task_that_was_made(fault: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        _, answer = await made_by(ask, fault)
        (task,) = kie.tasks
        assert answer["data"][CREATED[fault]] == task
        assert answer["code"] == {"code_zero": 0, "code_string": "200"}.get(fault, 200)
        assert set(answer["data"]) == ({"taskId", "recordId"} if CREATED[fault] == "taskId" else {CREATED[fault]})


async def test_a_prompt_names_faults_for_its_own_task_only() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        prompt = "a cat simulate:late.hole@75,callback.lost"
        marked = (await ask.post(MARKET, {"model": "m", "input": {"prompt": prompt}}))[1]["data"]["taskId"]
        plain = (await ask.post(MARKET, {"model": "m", "input": {"prompt": "a cat"}}))[1]["data"]["taskId"]
        assert [(fault.name, fault.times) for fault in kie.tasks[marked].faults] == [
            ("late.hole", 1),
            ("callback.lost", 1),
        ]
        assert kie.tasks[marked].faults[0].seconds == 75
        assert kie.tasks[plain].faults == []


async def test_a_prompt_can_ask_for_a_refusal_and_an_unknown_fault_is_named() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        answer = (await ask.post("/api/v1/veo/generate", {"prompt": "simulate:create.body_402"}))[1]
        assert (answer["code"], answer["msg"]) == (402, "Credits insufficient")
        answer = (await ask.post("/api/v1/veo/generate", {"prompt": "simulate:weather.rain"}))[1]
        assert (answer["code"], answer["msg"]) == (422, "no such fault: 'weather.rain'")
        assert not kie.tasks


async def test_a_lost_answer_leaves_a_task_that_was_paid() -> None:
    async with Simulator(credits=10.0) as kie, asking(kie) as ask:
        with pytest.raises(aiohttp.ClientError):
            await made_by(ask, "lost")
        assert (len(kie.tasks), kie.credits) == (1, 5.75)
