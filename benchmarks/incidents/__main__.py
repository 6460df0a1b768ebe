"""`python -m benchmarks.incidents [WORD …]`: stage the incidents with a word in their title, or all; write the page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.incidents.cases import INCIDENTS
from benchmarks.incidents.page import PAGE, rendered, replaced
from benchmarks.incidents.scene import Incident, recovered, scene, shown
from benchmarks.incidents.transcript import Transcript, taken
from reconciler.demo.embedded_postgres import Postgres
from testkit.clocked_postgres import clocked_postgres
from testkit.standins.clock import Clock
from testkit.standins.monitoring import PROMETHEUS, prometheus

SETTINGS = {"max_connections": "200"}


def main() -> None:
    """Stage what was asked for, and write it into the page."""
    if PROMETHEUS is None:
        sys.exit("there is no prometheus (apt-get install prometheus)")
    chosen = [one for one in INCIDENTS if not sys.argv[1:] or any(word in one.title for word in sys.argv[1:])]
    # A replica that is killed hangs up on the local KIE, which need not tell of it.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    told: dict[str, Transcript] = {}
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(Postgres.start(settings=SETTINGS))
        for incident in chosen:
            if incident.needs and shutil.which(incident.needs, path=f"{os.environ['PATH']}:/usr/sbin") is None:
                print(f"{incident.title}: left out, there is no {incident.needs}")
                continue
            began = time.monotonic()
            with (
                tempfile.TemporaryDirectory(prefix="kie-reconciler-incident-") as folder,
                contextlib.ExitStack() as own,
            ):
                server, clock = own.enter_context(clocked_postgres()) if incident.clock else (postgres, None)
                told[incident.title] = asyncio.run(staged(incident, server, Path(folder), clock))
            print(f"{incident.title}: {time.monotonic() - began:.0f} s", flush=True)
    if len(told) == len(INCIDENTS):
        PAGE.write_text(rendered(told))
    for incident in chosen if len(told) < len(INCIDENTS) else ():
        if incident.title in told:
            PAGE.write_text(replaced(PAGE.read_text(), incident, told[incident.title]))


async def staged(incident: Incident, postgres: Postgres, folder: Path, clock: Clock | None) -> Transcript:
    """Let it happen, look, mend it, and see that everything is delivered after all."""
    async with scene(postgres, folder, clock) as on:
        async with incident.stage(on) as look:
            ports = [await replica.port() for replica in look.replicas]
            ports += look.gone
            async with prometheus(folder / "prometheus", ports) as address:
                await shown(on, address, look)
                transcript = await taken(on, address, look)
        await recovered(on, look)
    return transcript


if __name__ == "__main__":
    main()
