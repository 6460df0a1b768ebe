"""INSERT until the first recordInfo arrives at KIE, one row at a time at idle: the daemon against a bare LISTEN."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
from aiohttp import web

from benchmarks.stage import HERE, KEY, USER, Stage, first_line, program, stage

ANSWER = {"code": 200, "msg": "success", "data": {"state": "waiting", "resultJson": ""}}


class TimedKie:
    """A KIE that notes when each task is first polled, and calls every task waiting."""

    def __init__(self) -> None:
        self.url = ""
        self._asked: dict[str, asyncio.Future[float]] = {}

    def expect(self, task_id: str) -> asyncio.Future[float]:
        """Return a future that gets the time of the first poll of this task."""
        return self._asked.setdefault(task_id, asyncio.get_running_loop().create_future())

    async def answer(self, request: web.Request) -> web.Response:
        """Note the time, then answer."""
        asked = self._asked.get(request.query.get("taskId", ""))
        if asked is not None and not asked.done():
            asked.set_result(time.perf_counter())
        return web.json_response(ANSWER)


@contextlib.asynccontextmanager
async def listening_kie() -> AsyncIterator[TimedKie]:
    """Start the KIE on loopback."""
    timed_kie, app = TimedKie(), web.Application()
    app.router.add_get("/{path:.*}", timed_kie.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    timed_kie.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield timed_kie
    finally:
        await runner.cleanup()


async def measure(*, rounds: int, count: int) -> list[tuple[list[float], list[float]]]:
    """Return pairs of (bare, daemon), each the milliseconds of `count` rows."""
    pairs = []
    async with (
        stage(media_size=1000) as on,
        listening_kie() as timed_kie,
        asyncpg.create_pool(on.dsn, min_size=1, max_size=1) as pool,
    ):
        for _ in range(rounds):
            with _bare(on, timed_kie):
                bare = await _times(timed_kie, pool, count)
            ours = await daemon(on, timed_kie, pool, count)
            pairs.append((bare, ours))
    return pairs


@contextlib.contextmanager
def _bare(on: Stage, timed_kie: TimedKie) -> Iterator[None]:
    with program("-m", "benchmarks.bare_listen", on.dsn, timed_kie.url, KEY) as process:
        first_line(process)
        yield


async def daemon(on: Stage, timed_kie: TimedKie, pool: asyncpg.Pool, count: int, checkout: Path = HERE) -> list[float]:
    """Return the milliseconds of `count` rows with a checkout's daemon."""
    environment = on.environment(KIE_MARKET_BASE_URL=timed_kie.url)
    with program("-m", "reconciler", "run", environment=environment, checkout=checkout):
        return await _times(timed_kie, pool, count)


async def _times(timed_kie: TimedKie, pool: asyncpg.Pool, count: int) -> list[float]:
    await pool.execute("TRUNCATE public.generations, reconciler.work")
    # The first row only proves that the listener is connected; it is not counted.
    await _one(timed_kie, pool)
    times = []
    for _ in range(count):
        times.append(await _one(timed_kie, pool))
        await asyncio.sleep(0.02)
    return times


async def _one(timed_kie: TimedKie, pool: asyncpg.Pool) -> float:
    task_id = uuid.uuid4().hex
    asked = timed_kie.expect(task_id)
    began = time.perf_counter()
    await pool.execute(
        "INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status)"
        " VALUES ($1, 'image', 'nano-banana-2', 'kie', $2, 'generating')",
        USER,
        task_id,
    )
    return (await asyncio.wait_for(asked, 60) - began) * 1000
