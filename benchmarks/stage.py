"""The stage of every measurement: PostgreSQL, a local KIE and a local storage, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import psutil

from reconciler.demo.embedded_postgres import Postgres
from reconciler.postgres.migrations.migrate import migrate

KEY = "bench-key"
USER = "7d0f3a52-4b6e-4c7e-9a55-0c5d3f6f2b11"
CREATE = "/api/v1/jobs/createTask"


HERE = Path(__file__).parent.parent
"""This checkout."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The addresses of what runs; `folder` is for the daemon's files."""

    dsn: str
    kie: str
    storage: str
    storage_key: str
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Return the daemon's settings for this stage."""
        return {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.dsn,
            "KIE_API_KEY": KEY,
            "KIE_MARKET_BASE_URL": self.kie,
            "SUPABASE_URL": self.storage,
            "SUPABASE_SERVICE_ROLE_KEY": self.storage_key,
            "RECONCILER_ALLOW_PRIVATE_HOSTS": "true",
            "RECONCILER_CONCURRENCY": "32",
            "RECONCILER_HTTP_PORT": "0",
            "RECONCILER_POLL_RATE": "100000",
            "RECONCILER_RESULT_HOSTS": "127.0.0.1",
            "RECONCILER_SPOOL_DIR": str(self.folder / "spool"),
            "LOG_FORMAT": "json",
            **more,
        }


@contextlib.contextmanager
def program(
    *arguments: str, environment: dict[str, str] | None = None, checkout: Path = HERE
) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program of this or another checkout, and end it with the context."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=checkout,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that a program says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.asynccontextmanager
async def stage(*, media_size: int, file_rate: float | None = None) -> AsyncIterator[Stage]:
    """Start everything around the daemon; results have `media_size` bytes and are ready at once.

    `file_rate` is the bytes a second that all sources give together, None for as fast as they can.
    """
    limit = () if file_rate is None else ("--file-rate", str(file_rate))
    async with set_up("--no-limits", "--speed", "2000", "--media-size", str(media_size), *limit) as on:
        yield on


@contextlib.asynccontextmanager
async def set_up(*kie_arguments: str) -> AsyncIterator[Stage]:
    """Start everything around the daemon, KIE with these arguments."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kie-reconciler-bench-")))
        postgres = stack.enter_context(Postgres.start(folder / "postgres", fsync=True))
        await migrate(postgres.dsn(), application=True)
        kie = stack.enter_context(program("-m", "reconciler.simulator", *kie_arguments))
        storage = stack.enter_context(program("-m", "testkit.standins.storage", "--bucket", "generations", "--forget"))
        url, key = first_line(storage), first_line(storage)
        yield Stage(postgres.dsn(), first_line(kie), url, key, folder)


async def backlog(on: Stage, pool: asyncpg.Pool, *, count: int, model: str) -> None:
    """Empty the tables and insert generations whose tasks have ended."""
    await pool.execute("TRUNCATE public.generations, reconciler.work, reconciler.assets, reconciler.events")
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {KEY}"}) as client:
        slots = asyncio.Semaphore(8)

        async def create() -> str:
            async with slots:
                body = {"model": model, "input": {"prompt": "x"}}
                answer = await client.post(on.kie + CREATE, json=body)
                task: str = answer.json()["data"]["taskId"]
                return task

        tasks = await asyncio.gather(*(create() for _ in range(count)))
    await pool.executemany(
        "INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status)"
        " VALUES ($1, 'image', $2, 'kie', $3, 'generating')",
        [(USER, model, task) for task in tasks],
    )
    # Of the emptied tables nothing is known then, as in a new shop: what is known to be empty is read from end to end.
    await pool.execute("ANALYZE public.generations")


def script(name: str, arguments: Sequence[str]) -> dict[str, float]:
    """Run one of the bare scripts to its end and return the figures it prints."""
    with program("-m", f"benchmarks.{name}", *arguments) as process:
        said, _ = process.communicate(timeout=300)
    figures: dict[str, float] = json.loads(said)
    return figures


def cpu(pid: int) -> float:
    """Return the CPU seconds, user and system, that a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
