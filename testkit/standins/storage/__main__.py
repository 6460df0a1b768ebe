"""The stand-in as a process of its own; its address is the first line it prints, its key the second."""

from __future__ import annotations

import argparse
import asyncio
import signal

from testkit.standins.storage import Bucket, SupabaseStorage
from testkit.standins.storage.faults import at_random


async def serve(arguments: argparse.Namespace) -> None:
    buckets = {name: Bucket() for name in arguments.bucket or ["generations"]}
    storage = SupabaseStorage(buckets, port=arguments.port, secret=arguments.secret)
    storage.shelf.keeps = not arguments.forget
    if arguments.faults:
        storage.faults.roll = at_random(arguments.faults, arguments.seed)
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, ended.set)
    async with storage:
        print(storage.url, flush=True)  # noqa: T201
        print(storage.key, flush=True)  # noqa: T201
        await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testkit.standins.storage")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", action="append")
    parser.add_argument("--secret", help="signs the key, so that it can be known beforehand")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that fail")
    parser.add_argument("--forget", action="store_true", help="keep of a body only its size and hash, for measurements")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
