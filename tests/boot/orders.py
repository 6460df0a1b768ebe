"""Orders as the application makes them: tasks at KIE and a row for each; prints the rows' ids.

Run by life.sh, with how many.
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg
import httpx

from tests.boot.world import DATABASE, KEY

BODY = {"model": "nano-banana-2", "input": {"prompt": "a lens"}}
INSERT = """
INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status)
SELECT '6f9619ff-8b86-4d01-b42d-00cf4fc964ff', 'image', 'nano-banana-2', 'kie', task, 'queued'
  FROM unnest($1::text[]) AS task RETURNING id::text
"""


async def order(count: int) -> list[str]:
    """Order so many and return the rows' ids."""
    tasks = []
    async with httpx.AsyncClient(base_url="http://127.0.0.1:8788", headers={"Authorization": f"Bearer {KEY}"}) as kie:
        for _ in range(count):
            answer = await kie.post("/api/v1/jobs/createTask", json=BODY)
            tasks.append(answer.json()["data"]["taskId"])
    connection = await asyncpg.connect(DATABASE)
    try:
        return [row["id"] for row in await connection.fetch(INSERT, tasks)]
    finally:
        await connection.close()


if __name__ == "__main__":
    print("\n".join(asyncio.run(order(int(sys.argv[1])))))  # noqa: T201
