"""Compares deliveries with storage from time to time: whether each object is still there, and still the same.

A missing or changed object loses its receipt, and a visit delivers it once more while KIE has it; nothing is repaired
here. If storage cannot be asked about an object, nothing is concluded. The command `audit` uses `compare` and `settle`,
too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

import structlog

from reconciler.domain.model import Asset
from reconciler.errors import ReconcilerError, Transient
from reconciler.metrics import Metrics
from reconciler.postgres.ledger.verification import VerificationQueue, VerifiedDelivery
from reconciler.storage import READ_BACK, UNPROVEN, Store, prove, reread

log = structlog.get_logger()

BATCH = 30
"""Deliveries that one run compares: with a run every 15 s two a second, however many are due."""

AWAY = 3
"""Deliveries in a row that storage cannot answer about after which a run ends: storage itself is away."""

Verdict = Literal["ok", "broken", "lost", "left"]


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """What was found of one delivery: each broken object with the reason, and the new receipts of the others.

    `lost` is broken and was given up before. `left` is not judged: the application's row shows something else, or a
    repair is under way.
    """

    audited: VerifiedDelivery
    verdict: Verdict
    broken: tuple[tuple[Asset, str], ...] = ()
    whole: tuple[Asset, ...] = ()

    @property
    def why(self) -> str:
        """What is broken, in words."""
        return "; ".join(f"{asset.path}: {reason}" for asset, reason in self.broken)


@dataclass(frozen=True, slots=True)
class Verification:
    """Verifies for one instance; `stir` makes the worker look for what is due, `observe` changes nothing."""

    queue: VerificationQueue
    store: Store
    metrics: Metrics
    stir: Callable[[], None]
    observe: bool = False

    async def run_once(self) -> None:
        """Compare at most BATCH deliveries that are due; the rest is due at the next run."""
        unanswered = 0
        for delivery in await self.queue.due(BATCH):
            try:
                result = await self.compare(delivery)
            except ReconcilerError as error:
                # The delivery is due again once its claim has run out.
                self.metrics.audits.labels("away").inc()
                log.warning("audit.away", generation_id=delivery.generation_id, code=error.code, reason=str(error))
                unanswered += 1
                if unanswered == AWAY:
                    return
                continue
            unanswered = 0
            # A loss is counted once, by the visit that gave it up.
            self.metrics.audits.labels("left" if result.verdict == "lost" else result.verdict).inc()
            await self.settle(result)

    async def compare(self, delivery: VerifiedDelivery, *, read: bool = False) -> VerificationResult:
        """Compare one delivery with storage; with `read` every byte is read.

        Raises Transient or Permanent where storage cannot be asked.
        """
        if not self._row_shows(delivery):
            return VerificationResult(delivery, "left")
        broken, whole = [], []
        for asset in delivery.assets:
            try:
                version, verified_by = await self._prove(asset, read=read)
                whole.append(replace(asset, version=version, verified_by=verified_by))
            except Transient as error:
                if error.code != UNPROVEN:
                    raise
                broken.append((asset, str(error)))
        verdict: Verdict = "ok" if not broken else "lost" if delivery.lost else "broken"
        return VerificationResult(delivery, verdict, tuple(broken), tuple(whole))

    async def settle(self, result: VerificationResult) -> bool:
        """Write down a result; return whether a broken delivery is now due to be delivered once more."""
        delivery = result.audited
        if result.verdict != "broken":
            if result.verdict == "ok" and delivery.lost and not self.observe:
                await self.queue.found_again(delivery, result.whole)
            await self.queue.mark_intact(delivery)
            return False
        reopened = not self.observe and await self.queue.reopen(
            delivery, [asset for asset, _ in result.broken], f"audit: {result.why}"
        )
        logger = log.bind(generation_id=delivery.generation_id, task_id=delivery.task_id)
        logger.warning("audit.broken", reason=result.why, repaired=reopened)
        if reopened:
            self.stir()
        return reopened

    def _row_shows(self, delivery: VerifiedDelivery) -> bool:
        """Whether the row still shows our object. Only the paths are compared: the storage's host may have changed."""
        if not delivery.shown or delivery.repairing:
            return False
        ours = {urlsplit(self.store.address(asset.path)).path for asset in delivery.assets}
        return urlsplit(delivery.asset_url or "").path in ours

    async def _prove(self, asset: Asset, *, read: bool) -> tuple[str | None, str]:
        """The version and the proof of the stored object; Transient (proof_failed) where it is not what we stored."""
        if not read and asset.version is not None and asset.verified_by == READ_BACK:
            # This storage tells no hash, but every write changes the object's version.
            stat = await self.store.stat(asset.path)
            if stat is not None and (stat.size, stat.version) == (asset.size, asset.version):
                return asset.version, READ_BACK
        if read:
            receipt = await reread(self.store, asset.path, size=asset.size, sha256=asset.sha256)
        else:
            receipt = await prove(self.store, asset.path, size=asset.size, sha256=asset.sha256, md5=asset.md5)
        return receipt.version, receipt.verified_by
