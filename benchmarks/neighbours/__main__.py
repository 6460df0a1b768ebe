"""Measure every neighbour and keep the table: `python -m benchmarks.neighbours [--quick] [--only WORDS]`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.neighbours.bad import NEIGHBOURS
from benchmarks.neighbours.measure import Waits, measure
from benchmarks.page import PAGE, replace_section

BOUND = 5.0
"""Seconds that the p95 of good rows may take beside any neighbour, or twice what it takes alone if that is more."""

ALONE = "no neighbour"
"""The name of the measurement that the others are compared with."""

HEADING = "## Beside bad neighbours"
TEXT = """{heading}

Written by `python -m benchmarks.neighbours`. One replica with RECONCILER_POLL_RATE=10 and RECONCILER_CONCURRENCY=8;
{rows} good rows, one a second, each with one picture of 350 KB that KIE has finished. From INSERT to stored, in
seconds. The bar is a p95 of at most twice the first row's, or of 5 s, whichever is more, and no lease lost.

| beside | median | p95 | p95 / alone | leases lost |
|---|---|---|---|---|
{lines}
"""


async def measured(rows: int, only: str) -> dict[str, Waits]:
    """Measure good rows alone, then beside each neighbour with `only` in its name; return the waits by name."""
    waits = {}
    with tempfile.TemporaryDirectory(prefix="kie-reconciler-bench-") as folder:
        for name, neighbour in {ALONE: None, **NEIGHBOURS}.items():
            if neighbour is None or only in name:
                waits[name] = await measure(Path(folder), neighbour, rows=rows)
                print(line(name, waits[name], waits[ALONE]), flush=True)
    return waits


def line(name: str, waits: Waits, alone: Waits) -> str:
    """Return the table's row of one neighbour."""
    figures = f"{waits.median:.2f} | {waits.p95:.2f} | {waits.p95 / alone.p95:.1f} | {waits.leases_lost}"
    return f"| {name} | {figures} |"


def too_slow(waits: Mapping[str, Waits]) -> list[str]:
    """Return the neighbours beside which good rows waited too long or leases were lost."""
    bar = max(BOUND, 2 * waits[ALONE].p95)
    return [name for name, one in waits.items() if one.p95 > bar or one.leases_lost]


def main() -> None:
    """Measure, show the table and keep it; exit 1 where a neighbour is above the bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours")
    parser.add_argument("--quick", action="store_true", help="10 good rows each; the table is shown and not kept")
    parser.add_argument("--only", default="", help="measure neighbours with this in their name; write no table")
    given = parser.parse_args()
    rows = 10 if given.quick else 30
    waits = asyncio.run(measured(rows, given.only))
    if not given.quick and not given.only:
        lines = "\n".join(line(name, one, waits[ALONE]) for name, one in waits.items())
        replace_section(PAGE, HEADING, TEXT.format(heading=HEADING, rows=rows, lines=lines))
    if slow := too_slow(waits):
        sys.exit(f"above the bar: {', '.join(slow)}")


if __name__ == "__main__":
    main()
