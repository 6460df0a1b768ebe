"""`explain` and `stuck` as an operator uses them: during a transfer, on a narrow terminal, with nothing stuck."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import termios
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.render.reports import show_stuck
from reconciler.operations.stuck import StuckAnswer
from reconciler.postgres.reports.reports import InFlight
from reconciler.simulator import MediaSpec
from testkit.commands import run
from testkit.replica import PROGRAM, ROOT
from testkit.rows import HOUR, add, keep
from testkit.stage import Rig
from testkit.waiting import until

MB = 1_000_000
LONG_TASK = "a" * 40 + "-" + "b" * 60


async def test_a_second_process_explains_a_transfer_while_a_replica_makes_it(rig: Rig, tmp_path: Path) -> None:
    rig.kie.slow_seconds = 0.5
    task_id = rig.kie.add_task(results=[MediaSpec(kind="video", ext="mp4", size=30 * MB)])
    rig.kie.strike("file.slow", task=task_id)
    generation_id = await rig.insert(task_id, kind="video")
    await rig.run(RECONCILER_LEASE_SECONDS="30")
    environment = rig.environment(RECONCILER_LEASE_SECONDS="30")

    async def fetching() -> dict[str, Any] | None:
        ran = await run("explain", generation_id, "--json", folder=tmp_path, environment=environment)
        (answer,) = ran.answer
        return answer if answer["state"] == "fetching" else None

    answer = await until(fetching, 20, "an explanation in the middle of the transfer")

    transfer, story = answer["transfer"], answer["story"]
    assert (transfer["generation_id"], transfer["stage"], transfer["total"]) == (generation_id, "fetch", 30 * MB)
    assert 0 < transfer["done"] < 30 * MB
    assert transfer["bytes_per_second"] > 0
    assert transfer["instance"] == answer["holder"]["instance"]
    assert story["why"].startswith("Result 1 is being fetched: ")
    assert " of 30.0 MB (" in story["why"]
    assert "KIE says" not in story["why"]
    assert story["KIE"] == "KIE was not asked about it before this visit."
    # The replica reports every ten seconds by itself, and each second while a step lasts.
    reported = await rig.pool.fetchval("SELECT extract(epoch FROM now() - seen_at)::float8 FROM reconciler.instances")
    assert reported < 5
    rig.kie.slow_seconds = 0.0
    await rig.delivered([generation_id], within=60)
    ran = await run("explain", generation_id, "--json", folder=tmp_path, environment=environment)
    assert (ran.answer[0]["state"], ran.answer[0]["transfer"]) == ("delivered", None)


async def test_at_80_columns_ids_stay_whole_and_every_other_line_fits(tmp_path: Path, dsn: str, pool: Any) -> None:
    row = await add(pool, "generating", HOUR, task_id=LONG_TASK)
    await keep(pool, row, seen_task=LONG_TASK, why="KIE: unauthorized, " + "words of KIE " * 20, due_at_in=60, looks=2)

    for words in (["stuck"], ["explain", row]):
        shown = (await _on_a_terminal(*words, folder=tmp_path, columns=80, DATABASE_URL=dsn)).splitlines()
        assert [line for line in shown if row in line], words
        assert [line for line in shown if LONG_TASK in line], words
        assert [line for line in shown if len(line) > 80 and LONG_TASK not in line] == [], words


async def test_stuck_says_why_and_what_to_do(tmp_path: Path, dsn: str, pool: Any) -> None:
    row = await add(pool, "generating", HOUR, task_id="a-task")
    await keep(pool, row, seen_task="a-task", why="KIE: unauthorized", finding="key_rejected", due_at_in=60, looks=2)
    await pool.execute(
        "INSERT INTO reconciler.instances (id, host, pid, version) VALUES (gen_random_uuid(), 'h', 1, '0')"
    )
    environment = {"DATABASE_URL": dsn}

    read = await run("stuck", folder=tmp_path, environment=environment)
    answered = await run("stuck", "--json", folder=tmp_path, environment=environment)

    assert read.out.splitlines() == [
        f"{row}  generating for 60 min",
        "  task  a-task",
        "  what  image by flux-2/pro",
        "  why   KIE: unauthorized. KIE rejects the API key, or requests from this address.",
        "  do    Correct KIE_API_KEY and its siblings, or the key's list of allowed addresses at kie.ai, and restart.",
    ]
    (one,) = answered.answer
    assert (one["why"], one["finding"], one["state"]) == ("KIE: unauthorized", "key_rejected", "waiting")
    assert one["do"].startswith("Correct KIE_API_KEY")


async def test_with_nothing_stuck_the_answer_says_what_was_looked_for(tmp_path: Path, dsn: str, pool: Any) -> None:
    await add(pool, "queued", 3 * HOUR, task_id="one")
    await add(pool, "generating", task_id="two")
    await add(pool, "success", 9 * HOUR, task_id="three")

    ran = await run("stuck", folder=tmp_path, environment={"DATABASE_URL": dsn, "RECONCILER_STUCK_AFTER": "8h"})

    none = "no generation has been in flight for longer than 8 h"
    assert ran.out == f"{none}; 2 are in flight, the oldest for 3 h\n"


@pytest.mark.parametrize(
    ("in_flight", "said"),
    [(InFlight(0, None), "none is in flight"), (InFlight(1, 240.0), "1 is in flight, for 4 min")],
)
def test_with_at_most_one_in_flight_the_answer_counts_it(
    in_flight: InFlight, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_stuck(StuckAnswer((), in_flight), timedelta(minutes=10))

    assert capsys.readouterr().out == f"no generation has been in flight for longer than 10 min; {said}\n"


async def _on_a_terminal(*words: str, folder: Path, columns: int, **environment: str) -> str:
    """Return what a command prints on a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
        env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": ROOT, "TERM": "dumb", **environment},
    )  # fmt: skip
    os.close(theirs)
    shown = await asyncio.to_thread(_read_all, ours)
    assert await asyncio.wait_for(process.wait(), 20) == 0, shown
    return shown


def _read_all(terminal: int) -> str:
    shown = bytearray()
    try:
        while read := os.read(terminal, 65536):
            shown += read
    except OSError:
        # Linux says EIO when the last process has closed the terminal.
        pass
    finally:
        os.close(terminal)
    return shown.decode()
