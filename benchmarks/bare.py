"""The limit to compare with: a bare asyncio + httpx + asyncpg script that does the same requests and one UPDATE a row.

No claims, no leases, no proof, no receipts, nothing kept: what is left when all the daemon's care is taken away. Run by
`benchmarks.deliveries` as a process of its own; prints its seconds and CPU seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import asyncpg
import httpx

CONCURRENCY = 32


async def main(dsn: str, kie: str, storage: str, key: str, kie_key: str) -> None:
    async with httpx.AsyncClient() as client, asyncpg.create_pool(dsn, min_size=1, max_size=10) as pool:
        rows = await pool.fetch("SELECT id, user_id, task_id FROM public.generations WHERE status = 'generating'")
        slots = asyncio.Semaphore(CONCURRENCY)

        async def deliver(row: asyncpg.Record) -> None:
            async with slots:
                record = await client.get(
                    f"{kie}/api/v1/jobs/recordInfo",
                    params={"taskId": row["task_id"]},
                    headers={"Authorization": f"Bearer {kie_key}"},
                )
                sources = json.loads(record.json()["data"]["resultJson"])["resultUrls"]
                media = await client.get(sources[0])
                path = f"{row['user_id']}/image/{row['id']}_0.png"
                stored = await client.post(
                    f"{storage}/storage/v1/object/generations/{path}",
                    content=media.content,
                    headers={"Authorization": f"Bearer {key}", "Content-Type": "image/png", "x-upsert": "true"},
                )
                stored.raise_for_status()
                await pool.execute(
                    "UPDATE public.generations SET status = 'success', result_urls = $2, asset_url = $3 WHERE id = $1",
                    row["id"],
                    json.dumps(sources),
                    f"{storage}/storage/v1/object/public/generations/{path}",
                )

        began, spent = time.perf_counter(), _cpu()
        await asyncio.gather(*(deliver(row) for row in rows))
        print(json.dumps({"seconds": time.perf_counter() - began, "cpu": _cpu() - spent, "count": len(rows)}))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
