"""A plain HTTP client for tests of the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from reconciler.domain.observations import Ready
from reconciler.simulator import Simulator
from reconciler.simulator.records.dialects import DIALECTS


@dataclass
class Asking:
    """One client with one key."""

    kie: Simulator
    session: aiohttp.ClientSession

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        """Return the HTTP status and body of a GET."""
        async with self.session.get(self.kie.url + path, params=query) as answer:
            return answer.status, await answer.json(content_type=None)

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Return the HTTP status and body of a POST."""
        async with self.session.post(self.kie.url + path, json=body) as answer:
            return answer.status, await answer.json(content_type=None)

    async def record(self, task_id: str) -> tuple[int, Any]:
        """Return the HTTP status and envelope of a task's record, from its dialect's route."""
        return await self.get(DIALECTS[self.kie.tasks[task_id].family].status, taskId=task_id)

    async def state(self, task_id: str) -> str:
        """Return the state in a market record."""
        return str((await self.record(task_id))[1]["data"]["state"])


def addresses(seen: object) -> list[str]:
    """Return the first address of every result that an observation gives."""
    return [result.addresses[0] for result in seen.results if result.addresses] if isinstance(seen, Ready) else []


@asynccontextmanager
async def asking(kie: Simulator, key: str = "key") -> AsyncIterator[Asking]:
    """Return a client for this simulator."""
    headers = {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield Asking(kie, session)
