"""Asks KIE about the keys and storage about the bucket, because no generation may be under way that would tell.

Only the leader asks. The snapshot shows the results as findings.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from reconciler.domain.findings.snapshot import FailingSide
from reconciler.errors import Config, Permanent, Transient
from reconciler.kie.client import KieClient
from reconciler.metrics import Metrics
from reconciler.storage import Store
from reconciler.worker.periodic.leadership import Leadership

log = structlog.get_logger()


@dataclass(eq=False)
class Probes:
    """Asks KIE about each key (`keys`: their hashes) and storage about the bucket, while this instance leads.

    It keeps what it last found: keys that KIE rejects, keys without credit, 1 while the bucket is not public, and the
    first of the checks in a row that storage has failed, with what it said last.
    """

    kie: KieClient
    store: Store
    leadership: Leadership
    metrics: Metrics
    keys: Sequence[str]
    keys_rejected: int = field(default=0, init=False)
    keys_unpaid: int = field(default=0, init=False)
    bucket_closed: int = field(default=0, init=False)
    _storage_failing: tuple[float, str] | None = field(default=None, init=False)

    @property
    def storage_failing(self) -> FailingSide | None:
        """Return since when storage fails the check and what it said, None while it works; it counts no generation."""
        if self._storage_failing is None:
            return None
        since, reason = self._storage_failing
        return FailingSide(0, time.monotonic() - since, reason)

    async def ask_credit(self) -> None:
        """Ask how many credits each key has left, and whether KIE still accepts the key."""
        if not self.leadership.leads:
            return
        credits_left: dict[str, float | None] = {}
        for key_hash in self.keys:
            try:
                with self.metrics.asking("credit"):
                    credits_left[key_hash] = await self.kie.credit(key_hash=key_hash)
            except Permanent as error:
                log.warning("key.refused", key_hash=key_hash, code=error.code, reason=str(error))
                credits_left[key_hash] = None
        first = next(iter(credits_left.values()))
        self.metrics.kie_credits.set(math.nan if first is None else first)
        self.keys_rejected = sum(amount is None for amount in credits_left.values())
        self.keys_unpaid = sum(amount is not None and amount <= 0 for amount in credits_left.values())

    async def check_bucket(self) -> None:
        """Ask whether the bucket exists and is public: a private one accepts objects that nobody can open.

        Raises Transient where storage does not answer.
        """
        if not self.leadership.leads:
            self._storage_failing = None
            return
        try:
            await self.store.check()
        except Config as error:
            log.warning("bucket.closed", code=error.code, reason=str(error), do=error.hint)
            self.bucket_closed = 1
            self._storage_failing = None
        except Transient as error:
            since = time.monotonic() if self._storage_failing is None else self._storage_failing[0]
            self._storage_failing = since, f"check: {error.code}, {error}"
            raise
        else:
            self.bucket_closed = 0
            self._storage_failing = None
