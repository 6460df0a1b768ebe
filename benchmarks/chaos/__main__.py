"""`python -m benchmarks.chaos [--seed N] [--faults N] [--generations N] [--replicas N]`: prints what came of it."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.chaos.storm import Result, storm
from benchmarks.chaos.world import Terms

BOUND = 60.0
"""Seconds within which every fault is to be recovered from, with a lease of 30 s and a sweep every 15."""


def main() -> None:
    """Let the storm rage; exit 1 where anything was lost, doubled or paid for: time depends on the machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same faults")
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--generations", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kie-reconciler-chaos-") as folder:
        result = asyncio.run(storm(Path(folder), terms=Terms(), **vars(given)))
    print(report(result))
    sys.exit(bool(result.lost or result.doubled or result.creates))


def report(result: Result) -> str:
    """Return the figures as a table, a row for each kind of fault."""
    kinds: defaultdict[str, list[float]] = defaultdict(list)
    for one in result.struck:
        kinds[one.name].append(one.recovery)
    lines = ["| fault | times | recovery median s | worst s |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {len(times)} | {statistics.median(times):.1f} | {max(times):.1f} |"
        for name, times in sorted(kinds.items())
    ]
    slow = sum(one.recovery > BOUND for one in result.struck)
    told = f"{result.generations} generations: lost {len(result.lost)}, doubled {len(result.doubled)}"
    told += f", createTask calls {result.creates}; {slow} of {len(result.struck)} recoveries took over {BOUND:.0f} s"
    return "\n".join([*lines, "", told, *result.lost, *result.doubled])


if __name__ == "__main__":
    main()
