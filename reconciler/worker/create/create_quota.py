"""Which key an order goes out with, and whether it may go out at all: the rate that all replicas share.

What was granted long ago counts no more: KIE would count the request with those that were granted since. Called by
`create.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.postgres.create_requests import SLACK, CreateRequests
from reconciler.worker.route import RingKey, makers

FRESH = SLACK - 0.2
"""Seconds for which a grant is good; the rest of the slack is for the way to KIE."""


@dataclass(frozen=True, slots=True)
class CreateGrant:
    """One request with this key, by the monotonic time before it was asked for."""

    key_hash: str
    drawn: float

    @property
    def stale(self) -> bool:
        """Whether the request would come too late for what it was granted for."""
        return time.monotonic() - self.drawn > FRESH


class CreateQuota:
    """Grants requests to one instance."""

    def __init__(self, creations: CreateRequests, keys: Sequence[RingKey]) -> None:
        self._creations = creations
        self._keys = tuple(keys)

    async def ask(self, kind: str) -> CreateGrant | float:
        """Return a request with a key of this kind, or the seconds until the first key has one left."""
        waits = []
        for key in makers(self._keys, kind):
            drawn = time.monotonic()
            wait = await self._creations.grant(key.key_hash)
            if wait == 0.0:
                return CreateGrant(key.key_hash, drawn)
            waits.append(wait)
        return min(waits)

    async def wait(self, kind: str) -> CreateGrant:
        """Return a request as soon as there is one: for an order whose row is written already."""
        while True:
            granted = await self.ask(kind)
            if isinstance(granted, CreateGrant):
                return granted
            await asyncio.sleep(granted)
