"""Many fresh addresses at once: few requests to KIE run at once, within the rate that polls share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.http.routes import download_url
from reconciler.kie.client import key_hash
from reconciler.simulator import Simulator
from testkit.rows import THEIRS, add
from testkit.waiting import until
from tests.http.api import ANN, BOB, ServedApi, opened
from tests.wire import Origin, ok, origin

LINK = "/api/kie/downloadUrl"
KIE_ANSWER = b'{"code":200,"msg":"success","data":"https://tempfile.aiquickdraw.com/r/1.png?X-Amz-Expires=1200"}'


@dataclass
class SlowKie:
    """A KIE that answers once `may_answer` is set; `open` requests run now, at most `most` ran at once, at `times`."""

    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    server: Origin = field(default_factory=Origin)
    open: int = 0
    most: int = 0
    times: list[float] = field(default_factory=list)

    async def answer(self, writer: asyncio.StreamWriter, head: str) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self.open += 1
        self.most = max(self.most, self.open)
        await self.may_answer.wait()
        self.open -= 1
        writer.write(ok(KIE_ANSWER))


@asynccontextmanager
async def with_slow_kie(
    dsn: str, kie: Simulator, folder: Path, **changes: str
) -> AsyncIterator[tuple[SlowKie, ServedApi]]:
    """Serve the API with a slow KIE behind it."""
    slow = SlowKie()
    async with (
        origin(slow.answer) as slow.server,
        opened(dsn, kie, folder, KIE_MARKET_BASE_URL=slow.server.url, **changes) as api,
    ):
        yield slow, api


async def add_row(pool: Any, user_id: str) -> str:
    return await add(pool, user_id=user_id, result_urls=json.dumps([THEIRS]))


def requests(client: httpx.AsyncClient, row: str, count: int) -> list[asyncio.Task[httpx.Response]]:
    return [asyncio.create_task(client.post(LINK, json={"generationId": row})) for _ in range(count)]


async def test_two_requests_of_one_user_and_four_of_all_run_at_once(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_slow_kie(rows_dsn, kie, tmp_path) as (slow, api):
        monkeypatch.setattr(download_url, "QUEUE_SECONDS", 0.4)
        anns, bobs = await add_row(pool, ANN), await add_row(pool, BOB)
        greedy = requests(api.ann, anns, 20)
        await until(lambda: sum(task.done() for task in greedy) == 18, what="the surplus requests to be refused")
        assert slow.open == 2
        others = requests(api.bob, bobs, 2)
        await until(lambda: slow.open == 4, what="another user's turn")
        more = await api.operator.post(LINK, json={"generationId": anns})
        slow.may_answer.set()
        answers = [*await asyncio.gather(*greedy), *await asyncio.gather(*others)]
        refused = [answer for answer in [*answers, more] if answer.status_code != 200]
        assert len(refused) == 19
        for answer in refused:
            assert (answer.status_code, answer.json()["error"]) == (429, "too_many_links")
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) >= 1
        assert (await api.operator.post(LINK, json={"generationId": anns})).status_code == 200
    assert slow.most == 4


async def test_a_page_that_asks_for_ten_addresses_at_once_gets_them_in_turn(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path
) -> None:
    async with with_slow_kie(rows_dsn, kie, tmp_path) as (slow, api):
        slow.may_answer.set()
        answers = await asyncio.gather(*requests(api.ann, await add_row(pool, ANN), 10))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert slow.most <= 2


async def test_the_requests_share_the_rate_of_the_polls(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path
) -> None:
    async with with_slow_kie(rows_dsn, kie, tmp_path, RECONCILER_POLL_RATE="5") as (slow, api):
        slow.may_answer.set()
        row, began = await add_row(pool, ANN), asyncio.get_running_loop().time()
        links = asyncio.gather(*requests(api.ann, row, 4))
        await until(lambda: slow.times, what="the first")
        await api.parts.rate_limit.take(key_hash("key"))
        slow.times.append(asyncio.get_running_loop().time())
        assert {answer.status_code for answer in await links} == {200}
    assert len(slow.times) == 5
    # A granted request may be sent late, never early. The tolerance covers the difference of two clocks.
    assert all(at - began >= n / 5 - 0.005 for n, at in enumerate(sorted(slow.times)))


async def test_while_the_rate_is_exhausted_requests_are_refused_and_take_no_slot(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path
) -> None:
    next_slot = "SELECT next_at FROM reconciler.budget"
    async with with_slow_kie(rows_dsn, kie, tmp_path) as (slow, api):
        await api.parts.rate_limit.pause(key_hash("key"), 60)
        before = await pool.fetchval(next_slot)
        answer = await api.ann.post(LINK, json={"generationId": await add_row(pool, ANN)})
        assert (answer.status_code, answer.json()["error"]) == (429, "too_many_links")
        assert await pool.fetchval(next_slot) == before
    assert slow.server.heads == []


async def test_n5_a_429_from_kie_lets_the_key_rest_for_polls_and_later_requests(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path
) -> None:
    too_fast = b'{"code":429,"msg":"Rate limit exceeded","data":null}'

    async def refuse(writer: asyncio.StreamWriter, _: str) -> None:
        writer.write(ok(too_fast))

    async with origin(refuse) as server, opened(rows_dsn, kie, tmp_path, KIE_MARKET_BASE_URL=server.url) as api:
        row = await add_row(pool, ANN)
        first = await api.ann.post(LINK, json={"generationId": row})
        second = await api.ann.post(LINK, json={"generationId": row})
        assert (first.status_code, second.status_code) == (502, 429)
        assert not api.parts.rate_limit.spare(key_hash("key"))
    assert len(server.heads) == 1
