"""The simulator answers as KIE does."""

from __future__ import annotations

import json
import math
import time

import aiohttp
import pytest

from reconciler.simulator import Failure, MediaSpec, Simulator, never
from reconciler.simulator.options import read_latency
from testkit.waiting import until
from tests.simulator.client import asking

SEEN = [
    "taskId", "model", "state", "param", "resultJson", "failCode", "failMsg", "costTime", "completeTime", "createTime",
]  # fmt: skip


async def test_a_record_has_the_ten_recorded_keys_in_their_order() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        for life in (0.0, math.inf):
            status, body = await ask.record(kie.add_task(life=life))
            assert (status, list(body), list(body["data"])) == (200, ["code", "msg", "data"], SEEN)


async def test_unknown_fields_are_null_or_empty_but_never_absent() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        told = (await ask.record(kie.add_task(life=math.inf)))[1]["data"]
        assert told["resultJson"] == ""
        assert [told[name] for name in ("failCode", "failMsg", "costTime", "completeTime")] == [None] * 4


async def test_cost_is_in_seconds_and_agrees_with_the_times() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(life=188)
        kie.skip(200)
        told = (await ask.record(task))[1]["data"]
        assert told["costTime"] == 188
        assert told["completeTime"] - told["createTime"] == pytest.approx(188_000, abs=1)
        assert told["createTime"] == pytest.approx((time.time() - 200) * 1000, abs=2000)
        kie.cost_in_ms = True
        assert (await ask.record(task))[1]["data"]["costTime"] == pytest.approx(188_000, abs=1)


async def test_three_more_keys_and_empty_texts_can_be_enabled() -> None:
    async with Simulator(extras=True, blanks=True) as kie, asking(kie) as ask:
        told = (await ask.record(kie.add_task()))[1]["data"]
        assert list(told) == [*SEEN, "updateTime", "progress", "creditsConsumed"]
        assert (told["failCode"], told["failMsg"], told["progress"]) == ("", "", 100)


async def test_the_input_is_repeated_as_json_in_json_with_the_callback_address() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        request = {"model": "wan/2-7-r2v", "input": {"prompt": 'a "cat"'}, "callBackUrl": "http://127.0.0.1:1/cb"}
        _, made = await ask.post("/api/v1/jobs/createTask", request)
        assert made["data"]["recordId"] == made["data"]["taskId"]
        told = (await ask.record(made["data"]["taskId"]))[1]["data"]
        param = json.loads(told["param"])
        assert (param["model"], param["callBackUrl"]) == ("wan/2-7-r2v", "http://127.0.0.1:1/cb")
        assert json.loads(param["input"])["prompt"] == 'a "cat"'


async def test_a_life_runs_through_its_states_as_time_passes() -> None:
    steps = [("unknown", 1), ("null", 1), ("waiting", 10), ("queuing", 10), ("generating", 10)]
    async with Simulator(limits=False, speed=0.001) as kie, asking(kie) as ask:
        task = kie.add_task(life=steps, fate="fail", failure=Failure("422", "Invalid prompt"))
        assert (await ask.record(task))[1] == {"code": 422, "msg": "recordInfo is null", "data": None}
        kie.skip(1)
        assert (await ask.record(task))[1] == {"code": 200, "msg": "success", "data": None}
        kie.skip(1)
        for state in ("waiting", "queuing", "generating"):
            kie.skip(4)
            assert await ask.state(task) == state
            kie.skip(6)
        told = (await ask.record(task))[1]["data"]
        assert (told["state"], told["failCode"], told["failMsg"]) == ("fail", "422", "Invalid prompt")


async def test_time_can_run_faster_than_real_time() -> None:
    async with (
        Simulator(speed=1000, limits=False) as kie,
        Simulator() as slow,
        asking(kie) as ask,
        asking(slow) as wait,
    ):
        there, here = kie.add_task(life=100), slow.add_task(life=100)

        async def done() -> bool:
            return await ask.state(there) == "success"

        assert await ask.state(there) == "waiting"
        await until(done, within=5, what="100 s at a thousandfold speed")
        assert await wait.state(here) == "waiting"
        told = (await ask.record(there))[1]["data"]
        assert told["completeTime"] - told["createTime"] == pytest.approx(100, abs=2)


async def test_a_task_belongs_to_the_key_that_made_it() -> None:
    async with Simulator(keys=("mine", "theirs")) as kie, asking(kie, "mine") as ask, asking(kie, "theirs") as other:
        _, made = await ask.post("/api/v1/jobs/createTask", {"model": "m", "input": {}})
        task = made["data"]["taskId"]
        assert (await ask.record(task))[1]["code"] == 200
        assert (await other.record(task))[1]["msg"] == "recordInfo is null"


async def test_a_wrong_key_is_refused_in_the_body_or_by_status() -> None:
    async with Simulator(keys=("right",)) as kie, asking(kie, "wrong") as ask:
        assert (await ask.get("/api/v1/chat/credit"))[1]["code"] == 401
        assert (await ask.get("/api/v1/chat/credit"))[0] == 200
        kie.http_errors = True
        assert (await ask.get("/api/v1/chat/credit"))[0] == 401
        assert kie.counts.refused == 3


async def test_the_eleventh_record_within_a_second_is_rejected() -> None:
    async with Simulator() as kie, asking(kie) as ask, asking(kie, "another") as other:
        task = kie.add_task()
        assert [(await ask.record(task))[0] for _ in range(11)] == [200] * 10 + [429]
        assert (await other.record(task))[0] == 200
        kie.http_429 = False
        status, body = await ask.record(task)
        assert (status, body["code"]) == (200, 429)
        assert (kie.counts.limited, kie.tasks[task].polls) == (2, 11)


async def test_the_twenty_first_create_within_ten_seconds_makes_no_task() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        request = {"model": "m", "input": {}}
        answers = [(await ask.post("/api/v1/jobs/createTask", request))[1]["code"] for _ in range(21)]
        assert answers == [200] * 20 + [429]
        assert len(kie.tasks) == kie.counts.creates == 20


async def test_an_answer_is_compressed_and_chunked_unless_disabled() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        address = f"{kie.url}/api/v1/jobs/recordInfo?taskId={kie.add_task()}"
        async with ask.session.get(address) as answer:
            told = await answer.json()
            assert answer.headers["Content-Encoding"] == "gzip"
            assert answer.headers["Transfer-Encoding"] == "chunked"
            assert "Set-Cookie" in answer.headers
        kie.compress = False
        async with ask.session.get(address) as answer:
            assert await answer.json() == told
            assert "Content-Encoding" not in answer.headers
            assert "Content-Length" in answer.headers


async def test_credit_is_a_bare_number_and_falls_with_every_task() -> None:
    async with Simulator(credits=100.5) as kie, asking(kie) as ask:
        assert await ask.get("/api/v1/chat/credit") == (200, {"code": 200, "msg": "success", "data": 100.5})
        await ask.post("/api/v1/jobs/createTask", {"model": "m", "input": {}})
        assert (await ask.get("/api/v1/chat/credit"))[1]["data"] < 100.5


async def test_orders_describe_the_next_tasks_created_over_http() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        kie.orders.append({"life": never("generating"), "results": [MediaSpec("video", "mp4", 10_000)]})
        _, made = await ask.post("/api/v1/jobs/createTask", {"model": "m", "input": {}})
        task = made["data"]["taskId"]
        assert await ask.state(task) == "generating"
        kie.end(task)
        assert await ask.state(task) == "success"
        assert kie.addresses(kie.tasks[task])[0].endswith(".mp4")


async def test_results_can_have_every_documented_form() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        two = [MediaSpec(), MediaSpec()]
        wrapped = kie.add_task(results=two, wrap=lambda urls: {"resultUrls": [urls[0]], "lastFrameUrl": [urls[1]]})
        result = json.loads((await ask.record(wrapped))[1]["data"]["resultJson"])
        first, last = kie.addresses(kie.tasks[wrapped])
        assert result == {"resultUrls": [first], "lastFrameUrl": [last]}


async def test_the_same_seed_makes_the_same_tasks() -> None:
    one, two, other = Simulator(seed=7), Simulator(seed=7), Simulator(seed=8)
    assert one.add_task() == two.add_task() != other.add_task()


async def test_an_answer_takes_as_long_as_ordered_or_between_two_bounds() -> None:
    async with Simulator(latency=0.05, seed=1) as kie, asking(kie) as ask:
        began = time.monotonic()
        await ask.get("/api/v1/chat/credit")
        assert time.monotonic() - began >= 0.05
        kie.latency = (0.02, 0.2)
        took = []
        for _ in range(8):
            began = time.monotonic()
            await ask.get("/api/v1/chat/credit")
            took.append(time.monotonic() - began)
        assert min(took) >= 0.02
        assert max(took) - min(took) > 0.04


async def failing(kie: Simulator, count: int) -> list[int]:
    """Return the status of each of so many requests, 0 for one whose connection was closed."""
    statuses = []
    async with asking(kie) as ask:
        for _ in range(count):
            try:
                body = {"model": "m", "input": {}}
                async with ask.session.post(f"{kie.url}/api/v1/jobs/createTask", json=body) as answer:
                    statuses.append(answer.status)
            except aiohttp.ClientError:
                statuses.append(0)
    return statuses


async def test_a_share_of_requests_gets_a_5xx_or_no_answer_and_then_makes_no_task() -> None:
    async with Simulator(failing=0.5, seed=3, limits=False) as kie:
        statuses = await failing(kie, 60)
        assert {status for status in statuses if status != 200} == {0, 500, 502, 503, 520}
        assert 15 <= statuses.count(200) <= 45
        assert len(kie.tasks) == statuses.count(200)


async def test_the_same_seed_fails_the_same_requests() -> None:
    async with Simulator(failing=0.5, seed=3, limits=False) as one, Simulator(failing=0.5, seed=3, limits=False) as two:
        assert await failing(one, 20) == await failing(two, 20)


@pytest.mark.parametrize(("text", "latency"), [("0", 0.0), ("0.3", 0.3), ("0.3-0.95", (0.3, 0.95)), ("1-1", (1, 1))])
def test_a_latency_is_seconds_or_a_range(text: str, latency: object) -> None:
    assert read_latency(text) == latency


@pytest.mark.parametrize("text", ["", "-1", "3-1", "soon", "1-2-3", "nan", "1e9", "0.3-"])
def test_a_latency_that_is_no_range_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="range"):
        read_latency(text)
