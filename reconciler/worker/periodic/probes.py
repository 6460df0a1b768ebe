"""What the leader asks of the outside where no generation does: are the keys good and paid for, is the bucket public.

Called by the rounds, which put the answers into the snapshot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from reconciler.errors import Config, Permanent
from reconciler.kie.client import KieClient
from reconciler.metrics import Metrics

log = structlog.get_logger()


class Probes:
    """The answers of the last time: how many keys are rejected or unpaid; 1 where nobody can open what is stored."""

    def __init__(
        self,
        kie: KieClient,
        bucket: Callable[[], Coroutine[Any, Any, None]],
        metrics: Metrics,
        *,
        keys: tuple[str, ...],
    ) -> None:
        self._kie = kie
        self._bucket = bucket
        self._metrics = metrics
        self._keys = keys
        self.keys_rejected = self.keys_unpaid = self.bucket_closed = 0

    async def credit(self) -> None:
        """Ask KIE how many credits are left with each key, and whether it still takes the key."""
        left: dict[str, float | None] = {}
        for key_hash in self._keys:
            try:
                with self._metrics.asking("credit"):
                    left[key_hash] = await self._kie.credit(key_hash=key_hash)
            except Permanent as error:
                log.warning("key.refused", key_hash=key_hash, code=error.code, reason=str(error))
                left[key_hash] = None
        first = next(iter(left.values()))
        self._metrics.kie_credits.set(math.nan if first is None else first)
        self.keys_rejected = sum(amount is None for amount in left.values())
        self.keys_unpaid = sum(amount is not None and amount <= 0 for amount in left.values())

    async def bucket(self) -> None:
        """See that the bucket is there and public: a private one takes everything, proves it, and shows nothing."""
        try:
            await self._bucket()
        except Config as error:
            log.warning("bucket.closed", code=error.code, reason=str(error), do=error.hint)
            self.bucket_closed = 1
        else:
            self.bucket_closed = 0
