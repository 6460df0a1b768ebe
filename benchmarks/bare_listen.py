"""The limit to compare with: one LISTEN connection, and one request for each notification.

No claim, no lease, no budget, no bookkeeping. Run by `benchmarks.latency` as a process of its own, until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import sys

import asyncpg
import httpx


async def main(dsn: str, kie: str, kie_key: str) -> None:
    async with httpx.AsyncClient() as client:
        asking: set[asyncio.Task[httpx.Response]] = set()

        def heard(_connection: object, _pid: int, _channel: str, payload: str) -> None:
            task_id = json.loads(payload).get("task_id")
            request = client.get(
                f"{kie}/api/v1/jobs/recordInfo",
                params={"taskId": task_id},
                headers={"Authorization": f"Bearer {kie_key}"},
            )
            asking.add(asyncio.create_task(request))

        connection = await asyncpg.connect(dsn)
        await connection.add_listener("reconciler_generations", heard)
        print("listening", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
