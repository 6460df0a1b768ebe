"""The simulator as a process of its own: says where it listens, runs until it is told to stop.

Called by `kie-reconciler simulate` and by `python -m reconciler.simulator`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from reconciler.simulator import replay
from reconciler.simulator.simulator import Simulator


def serve(kie: Simulator, recordings: Path | None = None) -> None:
    """Run until SIGTERM or SIGINT; the address is the first line on stdout, a line for each replayed task follows."""
    asyncio.run(_serve(kie, recordings))


async def _serve(kie: Simulator, recordings: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with kie:
        lines = [kie.url]
        if recordings is not None:
            ids = replay.play(kie, replay.load(recordings))
            lines += [f"{task_id} {kie.tasks[task_id].model}" for task_id in ids]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        await stop.wait()
