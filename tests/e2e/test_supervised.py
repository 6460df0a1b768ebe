"""Under systemd: every message that a real daemon sends to the notification socket."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.replica import ROOT
from testkit.stage import Rig
from testkit.standins.notify_socket import NotifySocket
from testkit.waiting import until

pytestmark = pytest.mark.soak

# A signal that blocks the loop, and no other thread, until the test opens the second pipe.
BLOCK = """
import os, signal
def block(*_):
    open(os.environ["BLOCKED"], "w").close()
    open(os.environ["RELEASED"]).close()
signal.signal(signal.SIGUSR1, block)
"""


@pytest.fixture
async def systemd(tmp_path: Path) -> AsyncIterator[NotifySocket]:
    with NotifySocket(str(tmp_path / "notify")).open() as opened:
        yield opened


async def hanging(rig: Rig) -> str:
    """A row with a result that never arrives."""
    task_id = rig.kie.add_task()
    rig.kie.strike("file.hang", task=task_id)
    generation_id = await rig.insert(task_id)
    await rig.struck("file.hang", 1)
    return generation_id


async def test_systemd_hears_of_waiting_ready_draining_and_the_end(rig: Rig, systemd: NotifySocket) -> None:
    assert rig.storage is not None
    await rig.storage.stop()
    replica = await rig.begin(NOTIFY_SOCKET=systemd.address)
    await systemd.receives("STATUS", "waiting: *")
    assert systemd.values("READY") == []
    await rig.storage.__aenter__()
    await systemd.receives("READY", "1")
    assert await replica.figure("last_sweep_timestamp_seconds") > 0
    await systemd.receives("STATUS", "0 in hand; 0 in flight, 0 stuck")
    await hanging(rig)
    await systemd.receives("STATUS", "1 in hand*")
    assert systemd.values("STOPPING") == []
    replica.signal(signal.SIGTERM)
    await systemd.receives("STATUS", "draining, 1 in hand*")
    replica.signal(signal.SIGTERM)
    assert (await replica.ended(within=10)).code == 0
    await systemd.receives("STATUS", "stopped")
    assert systemd.values("READY") == systemd.values("STOPPING") == ["1"]
    assert systemd.values("EXTEND_TIMEOUT_USEC") == ["40000000"]
    assert systemd.values("WATCHDOG") == []
    assert {one.pid for one in systemd.messages} == {replica.pid}


async def test_an_abstract_socket_works_too(rig: Rig) -> None:
    with NotifySocket(f"@kr-{secrets.token_hex(8)}").open() as systemd:
        replica = await rig.begin(NOTIFY_SOCKET=systemd.address)
        await systemd.receives("READY", "1")
        assert {one.pid for one in systemd.messages} == {replica.pid}


async def test_the_watchdog_is_fed_until_the_loop_is_blocked(rig: Rig, systemd: NotifySocket, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCK)
    os.mkfifo(released := tmp_path / "released")
    replica = await rig.begin(
        NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="400000", PYTHONPATH=f"{folder}:{ROOT}",
        BLOCKED=str(tmp_path / "blocked"), RELEASED=str(released),
    )  # fmt: skip
    await systemd.receives("READY", "1")
    await systemd.receives_watchdog(2)
    replica.signal(signal.SIGUSR1)
    await until((tmp_path / "blocked").exists, what="a blocked loop")
    loop = asyncio.get_running_loop()
    # First read what was sent before; then leave a forbidden message enough time to arrive.
    for seconds in (0.1, 2.0):
        before, moment = len(systemd.messages), loop.time() + seconds
        await until(lambda moment=moment: loop.time() >= moment)
    assert len(systemd.messages) == before
    released.write_text("")
    await systemd.receives_watchdog(2)


async def test_the_watchdog_is_fed_while_it_waits_and_while_it_drains(rig: Rig, systemd: NotifySocket) -> None:
    assert rig.storage is not None
    await rig.storage.stop()
    replica = await rig.begin(NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="400000", RECONCILER_DRAIN_SECONDS="600")
    await systemd.receives("STATUS", "waiting: *")
    await systemd.receives_watchdog(2)
    await rig.storage.__aenter__()
    await systemd.receives("READY", "1")
    await hanging(rig)
    replica.signal(signal.SIGTERM)
    await systemd.receives("STOPPING", "1")
    await systemd.receives_watchdog(4)
    assert (await replica.get("/healthz")).status_code == 200
    replica.signal(signal.SIGTERM)
    assert (await replica.ended(within=10)).code == 0
