"""Asks KIE about the keys and storage about the bucket, because no generation may be under way that would tell.

Only the leader asks. The snapshot shows the results as findings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from reconciler.errors import Config, Permanent
from reconciler.kie.client import KieClient
from reconciler.metrics import Metrics
from reconciler.storage import Store
from reconciler.worker.periodic.leadership import KNOWN_AFTER, Leadership

log = structlog.get_logger()


@dataclass(slots=True)
class ProbeResults:
    """What the probes last found: keys that KIE rejects, keys without credit, 1 while the bucket is not public."""

    keys_rejected: int = 0
    keys_unpaid: int = 0
    bucket_closed: int = 0


class CreditProbe:
    """Asks KIE about each key (`keys`: their hashes)."""

    name = "credit"
    interval = 300.0
    first_after = KNOWN_AFTER

    def __init__(
        self, kie: KieClient, leadership: Leadership, results: ProbeResults, metrics: Metrics, *, keys: Sequence[str]
    ) -> None:
        self._kie = kie
        self._leadership = leadership
        self._results = results
        self._metrics = metrics
        self._keys = keys

    async def run_once(self) -> None:
        """Ask how many credits each key has left, and whether KIE still accepts the key."""
        if not self._leadership.leads:
            return
        credits_left: dict[str, float | None] = {}
        for key_hash in self._keys:
            try:
                with self._metrics.asking("credit"):
                    credits_left[key_hash] = await self._kie.credit(key_hash=key_hash)
            except Permanent as error:
                log.warning("key.refused", key_hash=key_hash, code=error.code, reason=str(error))
                credits_left[key_hash] = None
        first = next(iter(credits_left.values()))
        self._metrics.kie_credits.set(math.nan if first is None else first)
        self._results.keys_rejected = sum(amount is None for amount in credits_left.values())
        self._results.keys_unpaid = sum(amount is not None and amount <= 0 for amount in credits_left.values())


class BucketProbe:
    """Asks storage whether the bucket exists and is public: a private one accepts objects that nobody can open."""

    name = "bucket"
    interval = 60.0
    first_after = KNOWN_AFTER

    def __init__(self, store: Store, leadership: Leadership, results: ProbeResults) -> None:
        self._store = store
        self._leadership = leadership
        self._results = results

    async def run_once(self) -> None:
        """Check the bucket."""
        if not self._leadership.leads:
            return
        try:
            await self._store.check()
        except Config as error:
            log.warning("bucket.closed", code=error.code, reason=str(error), do=error.hint)
            self._results.bucket_closed = 1
        else:
            self._results.bucket_closed = 0
