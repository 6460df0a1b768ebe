"""The simulator's callbacks: the field of the id, the signature, the retries."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from reconciler.simulator import Failure, Fault, Simulator, TaskSpec
from reconciler.simulator.api.callbacks import sign
from reconciler.simulator.records.dialects import DIALECTS
from testkit.waiting import until
from tests.simulator.client import asking

TOP_LEVEL = {"aleph", "suno_midi"}
SNAKES = {"suno", "runway", "suno_wav", "suno_stems", "suno_video", "suno_lyrics", "suno_midi"}


@dataclass
class Ear:
    """A receiver of callbacks; it answers with the given statuses, then with 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    heard: list[tuple[dict, dict]] = field(default_factory=list)

    async def hear(self, request: web.BaseRequest) -> web.Response:
        self.heard.append((dict(request.headers), json.loads(await request.read())))
        return web.json_response({"status": "received"}, status=self.statuses.pop(0) if self.statuses else 200)


@asynccontextmanager
async def ear(*statuses: int) -> AsyncIterator[Ear]:
    listening = Ear(statuses=list(statuses))
    runner = web.ServerRunner(web.Server(listening.hear))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    listening.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/kie/callback?secret=s"
    try:
        yield listening
    finally:
        await runner.cleanup()


async def called(kie: Simulator, listening: Ear, count: int = 1, **order: object) -> str:
    """Return a task that has sent this many callbacks."""
    told: TaskSpec = {"callback_url": listening.url, **order}  # type: ignore[typeddict-item]
    task = kie.add_task(**told)
    await until(lambda: len(listening.heard) >= count, what="the callback")
    return task


def test_the_signature_equals_the_test_vector() -> None:
    assert sign("test-key", "abc123", 1700000000) == "diYY62zxsP2BFxtYj0YyvQeMUZQI0yiCknnho5HSdmY="


async def test_the_market_sends_the_record_when_the_task_ends_and_not_before() -> None:
    async with Simulator() as kie, ear() as listening, asking(kie) as ask:
        task = kie.add_task(life=3600, callback_url=listening.url)
        kie.skip(3599)
        assert not listening.heard
        kie.skip(1)
        await until(lambda: listening.heard, what="the callback")
        headers, body = listening.heard[0]
        record = (await ask.record(task))[1]["data"]
        assert (body["code"], body["data"] | record) == (200, body["data"])
        assert "X-Webhook-Signature" not in headers


async def test_a_failure_is_sent_with_code_501_and_no_result() -> None:
    async with Simulator() as kie, ear() as listening:
        await called(kie, listening, fate="fail", failure=Failure("422", "no"))
        body = listening.heard[0][1]
        assert (body["code"], body["data"]["state"], body["data"]["resultJson"]) == (501, "fail", None)
        assert (body["data"]["failCode"], body["data"]["failMsg"]) == ("422", "no")


@pytest.mark.parametrize("name", sorted(set(DIALECTS) - {"suno"}))
@pytest.mark.parametrize("fate", ["success", "fail"])
async def test_every_dialect_has_the_id_in_its_own_field(name: str, fate: str) -> None:
    async with Simulator() as kie, ear() as listening:
        task = await called(kie, listening, family=name, fate=fate)
        body = listening.heard[0][1]
        told = body if name in TOP_LEVEL else body["data"]
        assert told["task_id" if name in SNAKES else "taskId"] == task
        assert (body["code"] == 200) == (fate == "success")
        results = kie.addresses(kie.tasks[task])[: len(kie.tasks[task].results)]
        assert all((address in json.dumps(body)) == (fate == "success") for address in results)


async def test_suno_sends_three_callbacks_and_only_the_last_is_complete() -> None:
    async with Simulator() as kie, ear() as listening:
        task = kie.add_task(family="suno", life=100, callback_url=listening.url)
        for count, stage in enumerate(("text", "first", "complete"), 1):
            kie.skip(34)
            await until(lambda count=count: len(listening.heard) == count, what=stage)
            assert listening.heard[-1][1]["data"]["callbackType"] == stage
        sounds = [[bool(track["audio_url"]) for track in body["data"]["data"]] for _, body in listening.heard]
        assert sounds == [[False, False], [True, False], [True, True]]
        assert kie.tasks[task].callbacks == 3


async def test_a_callback_that_is_not_accepted_is_retried_three_times() -> None:
    async with Simulator(callback_gap=0.01) as kie, ear(500, 503, 401, 404, 500) as listening:
        task = await called(kie, listening, count=4)
        await until(lambda: not kie._callbacks._sending, what="the end of trying")
        assert kie.tasks[task].call_answers == [500, 503, 401, 404]
        assert kie.counts.acknowledged == 0
        again = await called(kie, listening, count=6)
        await until(lambda: kie.counts.acknowledged == 1, what="the answer that takes it")
        assert kie.tasks[again].call_answers == [500, 200]


async def test_the_signature_covers_id_and_time_only() -> None:
    async with Simulator(hmac_key="k") as kie, ear() as listening:
        task = await called(kie, listening)
        headers, _ = listening.heard[0]
        assert headers["X-Webhook-Signature"] == sign("k", task, int(headers["X-Webhook-Timestamp"]))


@pytest.mark.parametrize("what", ["forged", "unsigned", "stale", "tampered", "two_ids"])
async def test_a_callback_can_be_forged(what: str) -> None:
    async with Simulator(hmac_key="k") as kie, ear() as listening:
        task = await called(kie, listening, faults=[Fault(f"callback.{what}")])
        headers, body = listening.heard[0]
        at = int(headers.get("X-Webhook-Timestamp", 0))
        valid = headers.get("X-Webhook-Signature") == sign("k", task, at)
        assert valid == (what in {"stale", "tampered", "two_ids"})
        assert ("stranger.example" in json.dumps(body)) == (what == "tampered")
        assert body.get("taskId", task) == ("0" * 32 if what == "two_ids" else task)


async def test_a_callback_can_come_twice() -> None:
    async with Simulator() as kie, ear() as listening:
        await called(kie, listening, count=2, faults=[Fault("callback.twice")])
        assert listening.heard[0][1] == listening.heard[1][1]


async def test_a_callback_can_get_lost() -> None:
    async with Simulator() as kie, ear() as listening:
        lost = kie.add_task(callback_url=listening.url, faults=[Fault("callback.lost")])
        await called(kie, listening)
        assert (kie.tasks[lost].callbacks, kie.counts.faults["callback.lost"]) == (0, 1)


async def test_a_callback_can_come_before_the_record_says_success() -> None:
    async with Simulator() as kie, ear() as listening, asking(kie) as ask:
        task = kie.add_task(life=1000, callback_url=listening.url, faults=[Fault("early.callback")])
        kie.skip(801)
        await until(lambda: listening.heard, what="the callback")
        assert listening.heard[0][1]["data"]["state"] == "success"
        assert await ask.state(task) == "waiting"


async def test_sunos_stages_can_come_in_the_wrong_order() -> None:
    async with Simulator(late_seconds=0.05) as kie, ear() as listening:
        await called(kie, listening, count=3, family="suno", faults=[Fault("callback.reordered", times=3)])
        assert listening.heard[0][1]["data"]["callbackType"] == "complete"


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("http://127.0.0.1:1/cb", True),
        ("http://[::1]:1/cb", True),
        ("http://localhost/cb", True),
        ("https://shop.example/cb", False),
        ("http://127.0.0.1.shop.example/cb", False),
        ("http://10.0.0.1/cb", False),
        ("http://[bad/cb", False),
        ("nonsense", False),
    ],
)
async def test_callbacks_stay_on_this_machine_unless_their_host_is_allowed(address: str, allowed: bool) -> None:
    kie = Simulator()
    assert kie.may_call(address) == allowed
    kie.callback_hosts = ("shop.example",)
    assert kie.may_call(address) == (allowed or address == "https://shop.example/cb")
    kie.callback_hosts = ("*",)
    assert kie.may_call(address)


async def test_a_withheld_callback_is_not_even_tried() -> None:
    async with Simulator() as kie, ear() as listening:
        withheld = kie.add_task(callback_url="https://shop.example/cb")
        await called(kie, listening)
        assert (kie.tasks[withheld].callbacks, kie.tasks[withheld].called) == (0, set())
