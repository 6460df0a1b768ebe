"""This checkout's daemon against another checkout's, in turn: `python -m benchmarks.against FOLDER`.

The other daemon runs twice in each round, so that its own spread is known. A difference counts where it exceeds that
spread. Both checkouts must work on the same schema.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import asyncpg

from benchmarks import deliveries, latency
from benchmarks.stage import HERE, stage

T = TypeVar("T")

Round = tuple[float, float, float]
"""One figure of the other checkout, of the same again, and of this one."""


async def measure(other: Path, *, rounds: int, count: int, events: int) -> str:
    """Return a table of paired ratios: medians, with the least and the most in brackets."""
    async with stage(media_size=350_000) as on, asyncpg.create_pool(on.dsn, min_size=1, max_size=2) as pool:
        runs = [await _in_turn(n, other, lambda of: deliveries.daemon(on, pool, count, of)) for n in range(rounds)]
    async with (
        stage(media_size=1000) as on,
        latency.listening_kie() as kie,
        asyncpg.create_pool(on.dsn, min_size=1, max_size=1) as pool,
    ):
        waits = [await _in_turn(n, other, lambda of: latency.daemon(on, kie, pool, events, of)) for n in range(rounds)]
    figures: dict[str, list[Round]] = {
        "CPU a delivery": [(a.cpu, b.cpu, c.cpu) for a, b, c in runs],
        "deliveries a second": [(a.rate, b.rate, c.rate) for a, b, c in runs],
        "INSERT to recordInfo, median": [tuple(map(statistics.median, each)) for each in waits],  # type: ignore[misc]
    }
    lines = [f"| {name} | {_ratio(of, 1)} | {_ratio(of, 2)} |" for name, of in figures.items()]
    head = f"{rounds} rounds of {count} deliveries and {events} rows; medians of paired ratios [least to most]"
    return "\n".join([head, "", "| | other again / other | this / other |", "|---|---|---|", *lines])


async def _in_turn(n: int, other: Path, run: Callable[[Path], Awaitable[T]]) -> tuple[T, T, T]:
    """Run the other checkout, then it and this one, in alternating order; return other, other again, this."""
    first = await run(other)
    if n % 2:
        this = await run(HERE)
        return first, await run(other), this
    again = await run(other)
    return first, again, await run(HERE)


def _ratio(rounds: Iterable[Round], which: int) -> str:
    values = [each[which] / each[0] for each in rounds]
    return f"{statistics.median(values):.3f} [{min(values):.3f} to {max(values):.3f}]"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against")
    parser.add_argument("other", type=Path, help="the root of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=800, help="deliveries in each run")
    parser.add_argument("--events", type=int, default=200, help="rows in each run")
    chosen = parser.parse_args()
    other = chosen.other.resolve()
    print(asyncio.run(measure(other, rounds=chosen.rounds, count=chosen.count, events=chosen.events)))


if __name__ == "__main__":
    main()
