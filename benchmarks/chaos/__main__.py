"""`python -m benchmarks.chaos [--seed N] [--faults N] [--generations N] [--replicas N] [--alone [N]]`: what came."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.alone import Alone, alone
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
    parser.add_argument("--alone", type=int, nargs="?", const=5, help="every fault alone, so many times, and no storm")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kie-reconciler-chaos-") as folder:
        if given.alone:
            asyncio.run(_alone(Path(folder), given))
        else:
            asyncio.run(_storm(Path(folder), given))


async def _storm(folder: Path, given: argparse.Namespace) -> None:
    result = await storm(
        folder,
        seed=given.seed,
        faults=given.faults,
        generations=given.generations,
        replicas=given.replicas,
        terms=Terms(),
    )
    print(report(result))
    sys.exit(bool(result.found.lost or result.found.doubled or result.found.refunded_twice or result.creates))


async def _alone(folder: Path, given: argparse.Namespace) -> None:
    struck, creates = await alone(folder, seed=given.seed, times=given.alone, replicas=given.replicas, terms=Terms())
    print(each(struck), f"createTask calls {creates}", sep="\n\n")
    sys.exit(creates > 0 or any(one.found.lost or one.found.doubled for one in struck))


def each(struck: Sequence[Alone]) -> str:
    """Return what came of each fault alone as a table, a row for each kind."""
    kinds: defaultdict[str, list[Alone]] = defaultdict(list)
    for one in struck:
        kinds[one.name].append(one)
    head = ("fault", "times", "recovery median s", "worst s", "longest wait s", "met", "lost", "doubled")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, ones in kinds.items():
        times = [one.recovery for one in ones]
        figures = [f"{figure:.1f}" for figure in (statistics.median(times), max(times), max(one.wait for one in ones))]
        counts = [sum(one.met for one in ones), *(sum(len(part) for part in parts) for parts in _parts(ones))]
        lines.append(f"| {' | '.join([name, str(len(ones)), *figures, *map(str, counts)])} |")
    return "\n".join(lines)


def _parts(ones: Sequence[Alone]) -> tuple[list[Sequence[str]], list[Sequence[str]]]:
    return [one.found.lost for one in ones], [one.found.doubled for one in ones]


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
    told = f"{result.generations} generations: lost {len(result.found.lost)}, doubled {len(result.found.doubled)}"
    told += f", refunded twice {result.found.refunded_twice}"
    told += f", createTask calls {result.creates}; {slow} of {len(result.struck)} recoveries took over {BOUND:.0f} s"
    return "\n".join([*lines, "", told, *result.found.lost, *result.found.doubled])


if __name__ == "__main__":
    main()
