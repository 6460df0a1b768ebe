"""How long a callback waits for its answer: at idle, and while 32 deliveries run from sources limited to 20 MB/s."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import asyncpg
import psutil

from benchmarks.stage import KEY, USER, Stage, backlog, program, stage

SECRET = "bench-secret"
SOURCE_RATE = 20_000_000
FILE = 40_000_000
AT_ONCE = 32
POLL_RATE = "5"
"""KIE's recordInfo a second, as it is by default: each callback is followed by a look, and those stand in a queue."""

EVERY = 0.02
"""Seconds between two callbacks: fifty a second, whether or not the one before has been answered."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Milliseconds from sending a callback to its answer."""

    idle: Sequence[float]
    loaded: Sequence[float]


async def measure(*, rounds: int, count: int) -> list[Waits]:
    """Return what each round saw; before each loaded part all deliveries are under way."""
    found = []
    async with AsyncExitStack() as stack:
        on = await stack.enter_async_context(stage(media_size=FILE, file_rate=SOURCE_RATE))
        pool = await stack.enter_async_context(asyncpg.create_pool(on.dsn, min_size=1, max_size=2))
        for _ in range(rounds):
            await backlog(on, pool, count=0, model="nano-banana-2")
            environment = on.environment(KIE_CALLBACK_SECRET=SECRET, LOG_LEVEL="info", RECONCILER_POLL_RATE=POLL_RATE)
            with program("-m", "reconciler", "run", environment=environment) as process:
                address = await _address(process.pid)
                idle = await _waits(address, await _known(pool, count))
                await _deliveries(on, pool)
                found.append(Waits(idle, await _waits(address, await _known(pool, count))))
    return found


async def _address(pid: int) -> str:
    """Where the daemon listens, once it takes callbacks."""
    async with aiohttp.ClientSession() as session:
        while True:
            for line in psutil.Process(pid).net_connections("tcp"):
                if line.status == psutil.CONN_LISTEN:
                    address = f"http://127.0.0.1:{line.laddr.port}"
                    async with session.get(f"{address}/readyz") as answer:
                        if answer.status == 200:
                            return address
            await asyncio.sleep(0.05)


async def _known(pool: asyncpg.Pool, count: int) -> list[str]:
    """Rows that wait for tasks which KIE does not know yet; the tasks."""
    tasks = [uuid.uuid4().hex for _ in range(count)]
    await pool.executemany(
        "INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status)"
        " VALUES ($1, 'image', 'nano-banana-2', 'kie', $2, 'generating')",
        [(USER, task) for task in tasks],
    )
    return tasks


async def _deliveries(on: Stage, pool: asyncpg.Pool) -> None:
    """Begin so many deliveries that they last beyond the measurement, and wait until they run."""
    create = {"model": "nano-banana-2", "input": {"prompt": "x"}}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(2 * AT_ONCE):
            async with session.post(f"{on.kie}/api/v1/jobs/createTask", json=create) as answer:
                task = (await answer.json())["data"]["taskId"]
            await pool.execute(
                "INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status)"
                " VALUES ($1, 'image', 'nano-banana-2', 'kie', $2, 'generating')", USER, task,
            )  # fmt: skip
    begun = "SELECT count(*) FROM reconciler.work WHERE sources IS NOT NULL OR lease_until > now()"
    while await pool.fetchval(begun) < AT_ONCE:
        await asyncio.sleep(0.05)


async def _waits(address: str, tasks: Sequence[str]) -> list[float]:
    url = f"{address}/api/kie/callback?secret={SECRET}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:

        async def call(task: str, at: float) -> float:
            await asyncio.sleep(at - time.perf_counter())
            body = json.dumps({"code": 200, "msg": "success", "data": {"taskId": task, "state": "success"}})
            began = time.perf_counter()
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
                await answer.read()
                assert answer.status == 200, answer.status
            return (time.perf_counter() - began) * 1000

        start = time.perf_counter() + 0.1
        return list(await asyncio.gather(*(call(task, start + n * EVERY) for n, task in enumerate(tasks))))
