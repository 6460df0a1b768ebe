"""Many fresh addresses at once: a few requests to KIE, each within the rate, and what polls need is left to them."""

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

from reconciler.http import download_url
from reconciler.kie.client import key_hash
from reconciler.simulator import Simulator
from testkit.rows import THEIRS, add
from testkit.waiting import until
from tests.http.api import ANN, BOB, Face, opened
from tests.wire import Origin, ok, origin

LINK = "/api/kie/downloadUrl"
MINTED = b'{"code":200,"msg":"success","data":"https://tempfile.aiquickdraw.com/r/1.png?X-Amz-Expires=1200"}'


@dataclass
class Slow:
    """A KIE that mints when it is let; `open` how many it is asked for now, `most` ever, `times` when."""

    let: asyncio.Event = field(default_factory=asyncio.Event)
    server: Origin = field(default_factory=Origin)
    open: int = 0
    most: int = 0
    times: list[float] = field(default_factory=list)

    async def answer(self, writer: asyncio.StreamWriter, head: str) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self.open += 1
        self.most = max(self.most, self.open)
        await self.let.wait()
        self.open -= 1
        writer.write(ok(MINTED))


@asynccontextmanager
async def slowly(dsn: str, kie: Simulator, folder: Path, **changes: str) -> AsyncIterator[tuple[Slow, Face]]:
    """The API before a slow KIE."""
    slow = Slow()
    async with (
        origin(slow.answer) as slow.server,
        opened(dsn, kie, folder, KIE_MARKET_BASE_URL=slow.server.url, **changes) as face,
    ):
        yield slow, face


async def shown(pool: Any, user_id: str) -> str:
    return await add(pool, user_id=user_id, result_urls=json.dumps([THEIRS]))


def asking(client: httpx.AsyncClient, row: str, count: int) -> list[asyncio.Task[httpx.Response]]:
    return [asyncio.create_task(client.post(LINK, json={"generationId": row})) for _ in range(count)]


async def test_one_user_has_two_requests_at_kie_and_all_together_four(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with slowly(rows_dsn, kie, tmp_path) as (slow, face):
        monkeypatch.setattr(download_url, "TURN", 0.4)
        anns, bobs = await shown(pool, ANN), await shown(pool, BOB)
        greedy = asking(face.ann, anns, 20)
        await until(lambda: sum(task.done() for task in greedy) == 18, what="those who are too many to be sent away")
        assert slow.open == 2
        others = asking(face.bob, bobs, 2)
        await until(lambda: slow.open == 4, what="another user's turn")
        more = await face.operator.post(LINK, json={"generationId": anns})
        slow.let.set()
        answers = [*await asyncio.gather(*greedy), *await asyncio.gather(*others)]
        turned = [answer for answer in [*answers, more] if answer.status_code != 200]
        assert len(turned) == 19
        for answer in turned:
            assert (answer.status_code, answer.json()["error"]) == (429, "too_many_links")
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) >= 1
        assert (await face.operator.post(LINK, json={"generationId": anns})).status_code == 200
    assert slow.most == 4


async def test_a_page_that_asks_for_ten_at_once_gets_them_in_turn(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path
) -> None:
    async with slowly(rows_dsn, kie, tmp_path) as (slow, face):
        slow.let.set()
        answers = await asyncio.gather(*asking(face.ann, await shown(pool, ANN), 10))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert slow.most <= 2


async def test_they_keep_the_distance_that_polls_keep_and_take_of_the_same_rate(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path
) -> None:
    async with slowly(rows_dsn, kie, tmp_path, RECONCILER_POLL_RATE="5") as (slow, face):
        slow.let.set()
        row, began = await shown(pool, ANN), asyncio.get_running_loop().time()
        links = asyncio.gather(*asking(face.ann, row, 4))
        await until(lambda: slow.times, what="the first")
        await face.built.budget.take(key_hash("key"))
        slow.times.append(asyncio.get_running_loop().time())
        assert {answer.status_code for answer in await links} == {200}
    assert len(slow.times) == 5
    # A grant may be acted on late, never early; two clocks are compared, the database's and ours.
    assert all(at - began >= n / 5 - 0.005 for n, at in enumerate(sorted(slow.times)))


async def test_while_nobody_may_ask_kie_they_are_sent_away_at_once_and_take_nothing(
    rows_dsn: str, pool: Any, kie: Simulator, tmp_path: Path
) -> None:
    left = "SELECT next_at FROM reconciler.budget"
    async with slowly(rows_dsn, kie, tmp_path) as (slow, face):
        await face.built.budget.empty(key_hash("key"), 60)
        before = await pool.fetchval(left)
        answer = await face.ann.post(LINK, json={"generationId": await shown(pool, ANN)})
        assert (answer.status_code, answer.json()["error"]) == (429, "too_many_links")
        assert await pool.fetchval(left) == before
    assert slow.server.heads == []
