"""With which keys an order may go to KIE, and how long a grant is valid: all replicas share each key's rate.

An order takes its grant in the transaction that writes its row (`postgres/create_requests.py`). One that was held up
afterwards takes another one here. Called by `create_task.py`.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.postgres.create_rates import SLACK, CreateRates
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

    rates: CreateRates
    keys: Sequence[RingKey]

    def key_hashes(self, kind: str) -> tuple[str, ...]:
        """Return the keys that may make a task of this kind."""
        return tuple(key.key_hash for key in makers(self.keys, kind))

    async def wait(self, kind: str) -> CreateGrant:
        """Wait for a grant, for an order that already has its row."""
        while True:
            waits = []
            for key_hash in self.key_hashes(kind):
                asked_at = time.monotonic()
                wait = await self.rates.grant(key_hash)
                if wait == 0.0:
                    return CreateGrant(key_hash, asked_at)
                waits.append(wait)
            await asyncio.sleep(min(waits))
