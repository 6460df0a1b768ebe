"""Measure everything and write docs/PERFORMANCE.md: `python -m benchmarks [--quick]`."""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
from collections.abc import Sequence

import psutil

from benchmarks import callbacks, deliveries, large, latency
from benchmarks.page import PAGE, replace_front

TEXT = """# Performance

Written by `make bench`; every figure is from one run on one machine ({machine}), measured side by side with a bare script on
the same libraries, in turn. Plain HTTP on loopback, no latency, no TLS: rates are ceilings of CPU, not what a WAN gives.
Ratios carry over to other machines, rates do not. Medians of {rounds} rounds, smallest and largest in brackets.

## Deliveries from a ready backlog

{count} generations of {size} KB each: recordInfo, download, storage, database. The bare script (`benchmarks/bare.py`) is asyncio,
httpx with its defaults and asyncpg at 32 at once, and writes one UPDATE a row; it proves nothing, keeps nothing and would lose
what is in its hands when it is killed. The daemon does all its work: claims, leases, hashes, sniffing, spool, proof, receipts.
Both share the two cores with PostgreSQL, KIE's stand-in and storage's, which keeps of a body only its size and its MD5.

| | deliveries a second | CPU s per 1,000 |
|---|---|---|
| bare script | {bare_rate} | {bare_cpu} |
| daemon | {our_rate} | {our_cpu} |
| daemon / bare, paired | {rate_ratio} | {cpu_ratio} |

## From INSERT to the first recordInfo

{events} rows, one at a time, at idle; from before the INSERT until the request arrives. The bare script listens and sends one
request a notification (`benchmarks/bare_listen.py`); the daemon claims the row and takes a request from the shared budget first.

| | median ms | p99 ms |
|---|---|---|
| bare LISTEN | {bare_p50} | {bare_p99} |
| daemon | {our_p50} | {our_p99} |
| daemon / bare, paired | {p50_ratio} | |

## How long a callback waits for its answer

{calls} callbacks at fifty a second, {rounds} times: at idle, and while 32 deliveries run from sources limited to 20 MB a second
together. The answer comes when the callback is stored durably.

| | median ms | p99 ms |
|---|---|---|
| idle | {idle_p50} | {idle_p99} |
| 32 deliveries running | {loaded_p50} | {loaded_p99} |

## One video of 1 GB

{large_rate:.0f} MiB a second from source through spool and TUS into storage, hashed by SHA-256 and MD5 on the way; the daemon's
resident memory grew by at most {large_growth:.0f} MiB.
"""


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return the median with the smallest and largest value."""
    return f"{statistics.median(values):{form}} [{min(values):{form}} to {max(values):{form}}]"


async def measure(*, rounds: int, count: int, events: int, calls: int) -> str:
    """Run every measurement and return the page."""
    size = 350_000
    pairs = await deliveries.measure(rounds=rounds, count=count, size=size)
    times = await latency.measure(rounds=rounds, count=events)
    waits = await callbacks.measure(rounds=rounds, count=calls)
    video = await large.measure()
    medians = [(statistics.median(bare), statistics.median(ours)) for bare, ours in times]
    return TEXT.format(
        machine=f"{psutil.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        rounds=rounds,
        count=count,
        size=size // 1000,
        events=events,
        bare_rate=spread([bare.rate for bare, _ in pairs], ".0f"),
        our_rate=spread([ours.rate for _, ours in pairs], ".0f"),
        rate_ratio=spread([ours.rate / bare.rate for bare, ours in pairs]),
        bare_cpu=spread([bare.cpu for bare, _ in pairs]),
        our_cpu=spread([ours.cpu for _, ours in pairs]),
        cpu_ratio=spread([ours.cpu / bare.cpu for bare, ours in pairs]),
        bare_p50=spread([bare for bare, _ in medians]),
        our_p50=spread([ours for _, ours in medians]),
        bare_p99=spread([_p99(bare) for bare, _ in times]),
        our_p99=spread([_p99(ours) for _, ours in times]),
        p50_ratio=spread([ours / bare for bare, ours in medians]),
        calls=calls,
        idle_p50=spread([statistics.median(one.idle) for one in waits], ".1f"),
        idle_p99=spread([_p99(one.idle) for one in waits], ".1f"),
        loaded_p50=spread([statistics.median(one.loaded) for one in waits], ".1f"),
        loaded_p99=spread([_p99(one.loaded) for one in waits], ".1f"),
        large_rate=video.rate,
        large_growth=video.growth,
    )


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    """Measure, show the page and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="few and small rounds; the page is shown and not kept")
    quick = parser.parse_args().quick
    rounds, count, events, calls = (2, 200, 50, 100) if quick else (5, 2000, 300, 400)
    page = asyncio.run(measure(rounds=rounds, count=count, events=events, calls=calls))
    print(page)
    if not quick:
        replace_front(PAGE, page)


if __name__ == "__main__":
    main()
