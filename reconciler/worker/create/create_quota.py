"""Decides with which key an order goes to KIE, and whether it may go now: all replicas share each key's rate.

Called by `create_task.py`.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.postgres.create_requests import SLACK, CreateRequests
from reconciler.worker.route import RingKey, makers

FRESH = SLACK - 0.2
"""Seconds for which a grant is valid; the rest of the slack is for the way to KIE.

An older grant is worth nothing: KIE would count its request together with those that were granted later.
"""


@dataclass(frozen=True, slots=True)
class CreateGrant:
    """Permission for one request with this key; `asked_at` is the monotonic time just before it was asked for."""

    key_hash: str
    asked_at: float

    @property
    def stale(self) -> bool:
        """Whether the grant is no longer valid."""
        return time.monotonic() - self.asked_at > FRESH


@dataclass(frozen=True, slots=True)
class CreateQuota:
    """Grants createTask requests to one instance."""

    requests: CreateRequests
    keys: Sequence[RingKey]

    async def ask(self, kind: str) -> CreateGrant | float:
        """Return a grant for a key of this kind, or the seconds until the first of the keys has a request left."""
        waits = []
        for key in makers(self.keys, kind):
            asked_at = time.monotonic()
            wait = await self.requests.grant(key.key_hash)
            if wait == 0.0:
                return CreateGrant(key.key_hash, asked_at)
            waits.append(wait)
        return min(waits)

    async def wait(self, kind: str) -> CreateGrant:
        """Wait for a grant, for an order that already has its row."""
        while True:
            answer = await self.ask(kind)
            if isinstance(answer, CreateGrant):
                return answer
            await asyncio.sleep(answer)
