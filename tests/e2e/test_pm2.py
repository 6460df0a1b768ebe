"""The daemon under pm2, by the shipped ecosystem file: a stop loses nothing, a crashed or grown process comes back.

Needs pm2 (`make pm2-test` installs it); PM2 names its program where it is not on the PATH.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from testkit.replica import ROOT
from testkit.stage import Rig
from testkit.waiting import until

PM2 = os.environ.get("PM2") or shutil.which("pm2")
PROGRAM = str(Path(PM2 or "pm2").absolute())
FILE = Path(ROOT) / "systemd" / "ecosystem.config.cjs"

pytestmark = pytest.mark.skipif(PM2 is None, reason="there is no pm2 here: make pm2-test")


@dataclass
class Pm2:
    """A pm2 of this test's own."""

    folder: Path
    environment: dict[str, str]

    async def __call__(self, *words: str) -> str:
        """Run one of its commands; what it printed."""
        process = await asyncio.create_subprocess_exec(
            PROGRAM, *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=self.folder, env=self.environment,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, output.decode()
        return output.decode()

    async def app(self) -> dict[str, Any]:
        """What it knows of the one program that it runs."""
        (app,) = json.loads((await self("jlist")).splitlines()[-1])
        return dict(app)

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of the daemon's log about this event."""
        logs = (self.folder / "home" / "logs").glob("*error*.log")
        lines = [json.loads(one) for log in logs for one in log.read_text().splitlines() if one.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def ready(self, times: int) -> None:
        """Wait until the daemon has been ready after so many starts."""

        async def is_ready() -> bool:
            started = self.said("daemon.started")
            if len(started) < times:
                return False
            try:
                async with httpx.AsyncClient(trust_env=False) as client:
                    return (await client.get(f"http://127.0.0.1:{started[-1]['port']}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await until(is_ready, 30, f"a daemon that is ready after start {times}")


@pytest.fixture
async def pm2(rig: Rig) -> AsyncIterator[Pm2]:
    """The daemon as the ecosystem file runs it, its settings in the application's own file."""
    rig.folder.mkdir(parents=True, exist_ok=True)
    settings = "\n".join(f"{name}='{value}'" for name, value in rig.environment().items())
    (rig.folder / ".env.local").write_text(f"{settings}\nSHOP_MOTTO='$(touch {rig.folder}/sourced)'\n")
    program = rig.folder / "kie-reconciler"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m reconciler "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(rig.folder), "PM2_HOME": str(rig.folder / "home")}
    environment |= {"PM2_DISABLE_VERSION_CHECK": "true", "KIE_RECONCILER": str(program)}
    # It looks at the memory every 30 s otherwise.
    environment |= {"RECONCILER_ENV_FILE": str(rig.folder / ".env.local"), "PM2_WORKER_INTERVAL": "5000"}
    started = Pm2(rig.folder, environment)
    try:
        await started("start", str(FILE))
        await started.ready(1)
        yield started
    finally:
        await started("kill")


async def test_a_stop_under_load_loses_nothing(rig: Rig, pm2: Pm2) -> None:
    rig.kie.latency = 0.2
    ids = [await rig.order() for _ in range(60)]

    async def some_are_delivered() -> bool:
        count: int = await rig.pool.fetchval("SELECT count(*) FROM public.generations WHERE status = 'success'")
        return count >= 5

    await until(some_are_delivered, 30, "the first deliveries")
    app = await pm2.app()
    assert 0 < app["monit"]["memory"] < app["pm2_env"]["max_memory_restart"] / 4
    await pm2("stop", "kie-reconciler")
    assert (await pm2.app())["pm2_env"]["exit_code"] == 0
    assert pm2.said("daemon.stopped")
    assert await rig.held() == 0
    await pm2("start", "kie-reconciler")
    await rig.delivered(ids, within=60)
    assert rig.storage is not None
    assert rig.storage.twice() == {}
    assert not (rig.folder / "sourced").exists()


async def test_a_crash_is_started_again_and_goes_on(rig: Rig, pm2: Pm2) -> None:
    ids = [await rig.order() for _ in range(5)]
    pid = (await pm2.app())["pid"]
    os.kill(pid, signal.SIGKILL)
    await pm2.ready(2)
    app = await pm2.app()
    assert app["pid"] != pid
    assert app["pm2_env"]["restart_time"] == 1
    await rig.delivered([*ids, await rig.order()], within=30)


async def test_a_daemon_that_is_too_old_for_the_database_ends_and_goes_on_once_it_may(rig: Rig, pm2: Pm2) -> None:
    await rig.pool.execute(
        "INSERT INTO reconciler.schema_version (file, sha256, requires_level, requires_version)"
        " VALUES ('900_next.sql', '', 99, '9.0.0')"
    )

    async def ended() -> bool:
        return bool((await pm2.app())["pm2_env"].get("exit_code") == 2)

    await until(ended, 30, "the end of the daemon")
    await rig.pool.execute("DELETE FROM reconciler.schema_version WHERE file = '900_next.sql'")
    await rig.delivered([await rig.order()], within=60)


async def test_a_daemon_above_the_limit_of_memory_drains_and_is_started_again(rig: Rig, pm2: Pm2) -> None:
    assert (await pm2.app())["pm2_env"]["max_memory_restart"] == 1 << 30
    await pm2("delete", "kie-reconciler")
    low = rig.folder / FILE.name
    low.write_text(FILE.read_text().replace('"1G"', '"20M"'))
    rig.kie.latency = 0.2
    ids = [await rig.order() for _ in range(20)]
    await pm2("start", str(low))
    # The first to stop was deleted above.
    await until(lambda: len(pm2.said("daemon.stopped")) >= 2, 60, "a daemon that has grown and is drained")
    await until(lambda: len(pm2.said("daemon.started")) > len(pm2.said("daemon.stopped")), 60, "another one")
    await pm2("stop", "kie-reconciler")
    assert await rig.held() == 0
    await pm2("delete", "kie-reconciler")
    await pm2("start", str(FILE))
    await rig.delivered(ids, within=60)
    assert rig.storage is not None
    assert rig.storage.twice() == {}
