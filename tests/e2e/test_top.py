"""`top` as an operator uses it: during a transfer, on a terminal, in a script, and when it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
from pathlib import Path
from typing import Any

import pytest

from reconciler.simulator import MediaSpec
from testkit.commands import begin, run
from testkit.replica import PROGRAM, ROOT
from testkit.stage import Rig
from testkit.waiting import until

pytestmark = pytest.mark.soak

MIB = 1 << 20
ALTERNATE, BACK = b"\x1b[?1049h", b"\x1b[?1049l"


async def line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    return told


async def test_a_transfer_under_way_is_seen_with_its_bytes_and_its_rate(rig: Rig, tmp_path: Path) -> None:
    rig.kie.slow_seconds = 0.5
    task_id = rig.kie.add_task(results=[MediaSpec(kind="video", ext="mp4", size=120 * MIB)])
    rig.kie.strike("file.slow", task=task_id)
    generation_id = await rig.insert(task_id, kind="video")
    await rig.run()

    process = await begin("top", "--json", "--interval", "0.2", folder=tmp_path, DATABASE_URL=rig.dsn)
    words: set[str] = set()
    async with asyncio.timeout(40):
        moving: list[dict[str, Any]] = []
        # Two words of the same stage that are apart by no more than a second or so: it tells oftener than by itself.
        while len(words) < 4 or not moving or moving[0]["done"] == 0:
            motion = await line(process)
            words |= {replica["told_at"] for replica in motion["replicas"]}
            moving = motion["transfers"]
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 10)

    (one,) = moving
    assert (process.returncode, err) == (0, b"")
    assert (one["generation_id"], one["n"], one["stage"], one["total"]) == (generation_id, 0, "fetch", 120 * MIB)
    assert 0 < one["done"] < 120 * MIB
    assert one["bytes_per_second"] > 0
    (replica,) = motion["replicas"]
    assert (replica["held"], replica["leads"]) == (1, True)
    assert replica["polls_per_second"] is not None
    assert [key["booked"] >= 0 for key in motion["keys"]] == [True]


async def test_without_a_terminal_one_look_is_one_page_and_writes_nothing(tmp_path: Path, dsn: str, pool: Any) -> None:
    environment = {"DATABASE_URL": dsn}
    await pool.execute("INSERT INTO reconciler.work (generation_id, due_at) VALUES ('row', now() - interval '1 min')")
    read = await run("top", "--once", folder=tmp_path, environment=environment)
    answered = await run("top", "--once", "--json", folder=tmp_path, environment=environment)

    assert (read.code, read.err, answered.code, answered.err) == (0, "", 0, "")
    assert "no replica is alive: start `kie-reconciler run`" in read.out
    assert answered.answer["replicas"] == []
    assert [one["generation_id"] for one in answered.answer["waiting"]] == ["row"]
    assert await pool.fetchval("SELECT count(*) FROM reconciler.watching") == 0


async def test_on_a_terminal_the_view_changes_in_place_and_gives_the_screen_back(tmp_path: Path, dsn: str) -> None:
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": ROOT, "TERM": "xterm", "DATABASE_URL": dsn}
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "top", "--interval", "0.1", stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    shown = bytearray()
    try:
        await until(lambda: _read(ours, shown).count(b"no replica") >= 3, 20, "three looks")
        process.send_signal(signal.SIGINT)
        await until(lambda: BACK in _read(ours, shown), 10, "the screen given back")
    finally:
        os.close(ours)

    assert await asyncio.wait_for(process.wait(), 10) == 0
    assert shown.count(ALTERNATE) == 1
    assert b"Traceback" not in shown


def _read(terminal: int, shown: bytearray) -> bytearray:
    with contextlib.suppress(BlockingIOError):
        shown += os.read(terminal, 65536)
    return shown
