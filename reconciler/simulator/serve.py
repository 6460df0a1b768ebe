"""Runs the simulator as a process: prints its address and serves until a signal stops it.

`kie-reconciler simulate` and `python -m reconciler.simulator` call it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from reconciler.simulator import replay
from reconciler.simulator.faults import Fault
from reconciler.simulator.options import callback_host
from reconciler.simulator.simulator import Simulator
from reconciler.simulator.tasks import SimulatedTask


def serve(kie: Simulator, recordings: Path | None = None, faults: Sequence[Fault] = ()) -> None:
    """Serve until SIGTERM or SIGINT; stdout gets the address first, then a line for each replayed task."""
    for fault in faults:
        kie.strike(fault.name, times=fault.times, seconds=fault.seconds)
    asyncio.run(_serve(kie, recordings))


async def _serve(kie: Simulator, recordings: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    kie.on_change(_Withheld(kie))
    async with kie:
        lines = [kie.url]
        if recordings is not None:
            ids = replay.play(kie, replay.load(recordings))
            lines += [f"{task_id} {kie.tasks[task_id].model}" for task_id in ids]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        await stop.wait()


class _Withheld:
    """Says once for each host that no callback goes there."""

    def __init__(self, kie: Simulator) -> None:
        self._kie = kie
        self._told: set[str] = set()

    def __call__(self, task: SimulatedTask) -> None:
        if task.callback_url is None or self._kie.may_call(task.callback_url):
            return
        host = callback_host(task.callback_url)
        if host not in self._told:
            self._told.add(host)
            sys.stderr.write(f"no callbacks to {host!r}: allow them by --callback-hosts\n")
            sys.stderr.flush()
