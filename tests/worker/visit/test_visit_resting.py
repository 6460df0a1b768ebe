"""A key that KIE answers with 429 rests for a minute at most and delays no row of another key."""

from __future__ import annotations

import asyncio
import json

import pytest

from reconciler.domain.model import Reschedule, Trigger
from reconciler.domain.observations import Unreachable
from reconciler.kie.client import key_hash
from testkit.waiting import until
from tests.wire import Answer, ok, origin
from tests.worker.rig import Rig

RESTS = "SELECT max(extract(epoch FROM rests_until - clock_timestamp()))::float8 FROM reconciler.budget"
KEYS = {"KIE_API_KEY": "", "KIE_API_KEY_PHOTO": "slow-key", "KIE_API_KEY_VIDEO": "good-key"}


def too_fast(*headers: str) -> Answer:
    """A KIE that answers 429 to the slow key and "waiting" to the others."""

    async def answer(writer: asyncio.StreamWriter, head: str) -> None:
        if "Bearer slow-key" in head:
            writer.write(ok(b'{"code":429,"msg":"Rate limit exceeded"}', *headers, status="429 Too Many Requests"))
        else:
            record = {"code": 200, "msg": "success", "data": {"taskId": "t", "state": "waiting"}}
            writer.write(ok(json.dumps(record).encode()))

    return answer


@pytest.mark.parametrize(("said", "rests"), [("86400", 60.0), ("30", 30.0), ("0", 10.0)])
async def test_a_key_rests_as_long_as_kie_says_but_a_minute_at_most(rig: Rig, said: str, rests: float) -> None:
    async with (
        origin(too_fast(f"Retry-After: {said}")) as kie,
        rig.instance(KIE_MARKET_BASE_URL=kie.url, **KEYS) as built,
    ):
        generation_id = await rig.insert("a", kind="image")
        visited = await rig.visit(built, generation_id)
        assert isinstance(visited.decision, Reschedule)
        assert (visited.decision.earliest - visited.at).total_seconds() <= 60
        assert rests - 1 < await rig.pool.fetchval(RESTS) <= rests


async def test_a_row_whose_key_rests_is_rescheduled_without_a_failure(rig: Rig) -> None:
    async with origin(too_fast()) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url, **KEYS) as built:
        await built.rate_limit.pause(key_hash("slow-key"), 40.0)
        generation_id = await rig.insert("a", kind="image")
        visited = await rig.visit(built, generation_id)
        assert isinstance(visited.observation, Unreachable)
        assert kie.heads == []
        work = await rig.books.work(generation_id)
        assert work is not None
        assert work["why"].startswith("KIE: rate_limited, the key rests")
        assert (work["misses"], work["looks"], work["lease"], work["finding"]) == (0, 0, None, None)
        assert 38 < work["due_in"] <= 40
        assert built.metrics.polls.labels("unheard")._value.get() == 0


@pytest.mark.parametrize("said", ["", "Retry-After: 86400"])
async def test_one_keys_rest_keeps_no_row_of_another_key_waiting(rig: Rig, said: str) -> None:
    answer = too_fast(*filter(None, [said]))
    async with origin(answer) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url, **KEYS) as built:
        few = rig.broad(built, polling=4)
        await rig.visit(few, await rig.insert("first", kind="image"))
        async with rig.working(few):
            for n in range(30):
                few.worker.wake(await rig.insert(f"image-{n}", kind="image", age=300))
            await until(lambda: not few.worker._wakes, what="the rows of the slow key are in hand or at rest")
            few.worker.wake(await rig.insert("video", kind="video"), Trigger.NOTIFY)
            await until(lambda: any("taskId=video" in path for path in kie.paths), within=4, what="the other key's row")
