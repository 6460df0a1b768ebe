"""The slow look at what was delivered: whether storage still has it, and has what was stored.

What is missing or changed loses its receipt, and a visit delivers it once more while KIE has it; nothing is repaired
here. Where storage cannot be asked, nothing is concluded, and the next is looked at. Called by the rounds, and by the
command `audit`.
"""

from __future__ import annotations

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

A_ROUND = 30
"""Deliveries that one round compares: with a round every 15 s two a second, however many are due."""

AWAY = 3
"""Deliveries in a row that storage could not answer about after which a round ends: storage itself is away."""

Verdict = Literal["ok", "broken", "lost", "left"]


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """What an audit says of one delivery: each broken object with the reason, and the receipts of the others.

    `left` is what the application's row does not show any more, or what is being repaired: it is nobody's to judge.
    """

    audited: VerifiedDelivery
    verdict: Verdict
    broken: tuple[tuple[Asset, str], ...] = ()
    whole: tuple[Asset, ...] = ()

    @property
    def why(self) -> str:
        """What is broken, in words."""
        return "; ".join(f"{asset.path}: {reason}" for asset, reason in self.broken)


class Verification:
    """Audits for one instance; `stir` makes somebody look for what is due, `observe` only looks and counts."""

    def __init__(
        self,
        audits: VerificationQueue,
        store: Store,
        metrics: Metrics,
        *,
        stir: Callable[[], None],
        observe: bool = False,
    ) -> None:
        self._audits = audits
        self._store = store
        self._metrics = metrics
        self._stir = stir
        self._observe = observe

    async def round(self) -> None:
        """Compare what is due, at most A_ROUND deliveries; the rest waits for the next round."""
        away = 0
        for one in await self._audits.due(A_ROUND):
            try:
                found = await self.compare(one)
            except ReconcilerError as error:
                # What was claimed comes again when the claim has run out.
                self._metrics.audits.labels("away").inc()
                log.warning("audit.away", generation_id=one.generation_id, code=error.code, reason=str(error))
                away += 1
                if away == AWAY:
                    return
                continue
            away = 0
            # A loss is counted once, by the visit that gave it up.
            self._metrics.audits.labels("left" if found.verdict == "lost" else found.verdict).inc()
            await self.settle(found)

    async def compare(self, one: VerifiedDelivery, *, read: bool = False) -> VerificationResult:
        """Compare one delivery with storage; `read`: by every byte.

        Raises Transient or Permanent where storage cannot be asked.
        """
        if not self._shown(one):
            return VerificationResult(one, "left")
        broken, whole = [], []
        for asset in one.assets:
            try:
                receipt = await self._compared(asset, read=read)
                whole.append(replace(asset, version=receipt[0], verified_by=receipt[1]))
            except Transient as error:
                if error.code != UNPROVEN:
                    raise
                broken.append((asset, str(error)))
        verdict: Verdict = "ok" if not broken else "lost" if one.lost else "broken"
        return VerificationResult(one, verdict, tuple(broken), tuple(whole))

    async def settle(self, found: VerificationResult) -> bool:
        """Keep what was found; whether something broken is now due to be delivered once more."""
        one = found.audited
        if found.verdict != "broken":
            if found.verdict == "ok" and one.lost and not self._observe:
                await self._audits.found_again(one, found.whole)
            await self._audits.kept(one)
            return False
        reopened = not self._observe and await self._audits.reopen(
            one, [asset for asset, _ in found.broken], f"audit: {found.why}"
        )
        bound = log.bind(generation_id=one.generation_id, task_id=one.task_id)
        bound.warning("audit.broken", reason=found.why, repaired=reopened)
        if reopened:
            self._stir()
        return reopened

    def _shown(self, one: VerifiedDelivery) -> bool:
        """Whether the row still shows the place where our storage has it; its host may have got another name."""
        if not one.shown or not one.assets or one.assets[0].n != 0:
            return False
        if not one.lost and not all(asset.stored for asset in one.assets):
            return False
        ours = urlsplit(self._store.address(one.assets[0].path)).path
        return urlsplit(one.asset_url or "").path == ours

    async def _compared(self, asset: Asset, *, read: bool) -> tuple[str | None, str]:
        """The version and the proof of the object that is there; Transient (proof_failed) where it is not ours."""
        if not read and asset.version is not None and asset.verified_by == READ_BACK:
            # Storage tells no hash, and a version of its own that every write changes.
            stat = await self._store.stat(asset.path)
            if stat is not None and (stat.size, stat.version) == (asset.size, asset.version):
                return asset.version, READ_BACK
        if read:
            receipt = await reread(self._store, asset.path, size=asset.size, sha256=asset.sha256)
        else:
            receipt = await prove(self._store, asset.path, size=asset.size, sha256=asset.sha256, md5=asset.md5)
        return receipt.version, receipt.verified_by
