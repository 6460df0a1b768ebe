"""Brings every source of a task into our storage, one asset at a time, each with its receipt.

Source -> spool (hashed, sniffed, bounded) -> path written down -> put -> proof -> receipt. What was stored before is
not touched again; where one source stops, the delivery stops, and the visit learns at which stage and why. Called by
the visit only.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from reconciler.domain.model import Asset, DeliveryFailed, Row, Stored
from reconciler.domain.object_keys import TYPES, object_key
from reconciler.errors import Gone, LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.kie.client import KieClient
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import Spool, SpoolDirectory
from reconciler.metrics import Metrics
from reconciler.postgres.inbox import Inbox
from reconciler.postgres.ledger.ledger import Ledger
from reconciler.storage import PutRequest, Store, prove
from reconciler.tracing import UNTRACED, Tracing
from reconciler.worker.lease import Lease

log = structlog.get_logger()

MINTABLE = frozenset({"host_unlisted"})
"""Refusals of an address that a link minted by the provider may mend."""

LIGHT = 6 << 20
"""Up to this many bytes the last receipt is written with the success: losing both costs a short transfer only."""


@dataclass(slots=True)
class Transfer:
    """A delivery under way, as `top` and the demo show it; sizes in bytes, `total` None while unknown.

    `began` is the monotonic time when its stage began.
    """

    generation_id: str
    n: int
    stage: str
    done: int = 0
    total: int | None = None
    began: float = field(default_factory=time.monotonic)

    def enter(self, stage: str, total: int) -> None:
        """Begin the next stage, of so many bytes."""
        self.stage, self.done, self.total, self.began = stage, 0, total, time.monotonic()


@dataclass(frozen=True, slots=True)
class Backends:
    """The edges that a visit needs; `ordering` is KIE over a connection for every request, for createTask alone."""

    ledger: Ledger
    inbox: Inbox
    kie: KieClient
    ordering: KieClient
    fetcher: Fetcher
    room: SpoolDirectory
    store: Store
    tracing: Tracing = UNTRACED


class Deliverer:
    """Delivers at most `slots` generations at once; `transfers` shows what is under way."""

    def __init__(self, ways: Backends, metrics: Metrics, *, slots: int) -> None:
        self._ways = ways
        self._metrics = metrics
        self._slots = asyncio.Semaphore(slots)
        self.transfers: dict[str, Transfer] = {}

    async def deliver(self, row: Row, lease: Lease) -> Stored | DeliveryFailed:
        """Store and prove every source that has no receipt yet; LeaseLost when another instance has taken over."""
        done = {asset.n: asset for asset in row.assets}
        unwritten: Asset | None = None
        async with self._slots:
            for n in range(len(row.sources)):
                if n in done and done[n].stored:
                    continue
                transfer = self.transfers[row.id] = Transfer(row.id, n, "fetch")
                try:
                    asset = await self._asset(row, lease, transfer, done.get(n))
                    if n == len(row.sources) - 1 and asset.size <= LIGHT:
                        unwritten = asset
                    else:
                        await self._ways.ledger.stored(row, lease.claim, asset)
                    done[n] = asset
                except LeaseLost:
                    raise
                except ReconcilerError as error:
                    self._metrics.missed(transfer.stage, error.code)
                    _told(row, n).warning("asset.not_stored", stage=transfer.stage, code=error.code, reason=str(error))
                    return _unstored(error, transfer.stage, _in_order(done))
                finally:
                    # Whose lease was lost may still be at it beside the next visit of this same process.
                    if self.transfers.get(row.id) is transfer:
                        del self.transfers[row.id]
        return Stored(_in_order(done), unwritten)

    async def _asset(self, row: Row, lease: Lease, transfer: Transfer, before: Asset | None) -> Asset:
        step = partial(self._ways.tracing.step, generation_id=row.id, task_id=row.task_id, n=transfer.n)
        async with self._ways.room.spool() as spool:
            with step("download") as downloading:
                mime = await self._fetch(row, transfer, spool)
                downloading.note(bytes=spool.size)
            asset = _named(row, transfer.n, mime, spool)
            if before is not None and (before.path, before.size, before.sha256) == (
                asset.path,
                asset.size,
                asset.sha256,
            ):
                asset = replace(asset, upload=before.upload)
            await self._ways.ledger.intend(row, lease.claim, asset)
            began = time.monotonic()
            with step("upload", bytes=asset.size):
                await self._put(row, lease, transfer, asset, spool)
        transfer.enter("prove", asset.size)
        with step("verify", bytes=asset.size), self._metrics.storing("prove"):
            receipt = await prove(self._ways.store, asset.path, size=asset.size, sha256=asset.sha256, md5=asset.md5)
        self._metrics.uploaded.inc(asset.size)
        took = round(time.monotonic() - began, 3)
        _told(row, asset.n).info("asset.stored", path=asset.path, bytes=asset.size, took=took)
        return replace(asset, version=receipt.version, verified_by=receipt.verified_by)

    async def _fetch(self, row: Row, transfer: Transfer, spool: Spool) -> str:
        def progress(done: int, total: int | None) -> None:
            transfer.done, transfer.total = done, total

        began = time.monotonic()
        source = row.sources[transfer.n]
        try:
            mime = await self._ways.fetcher.fetch(source, spool, progress=progress)
        except Permanent as refused:
            if row.key_hash is None or not (isinstance(refused, Gone) or refused.code in MINTABLE):
                raise
            try:
                with self._metrics.asking("download_url"):
                    minted = await self._ways.kie.download_url(source, key_hash=row.key_hash)
            except (Transient, Permanent):
                # What the provider cannot mint stays refused for the first reason, which is the one to act on.
                raise refused from None
            mime = await self._ways.fetcher.fetch(minted, spool, progress=progress)
        self._metrics.downloaded.inc(spool.size)
        _told(row, transfer.n).info("asset.downloaded", bytes=spool.size, took=round(time.monotonic() - began, 3))
        return mime

    async def _put(self, row: Row, lease: Lease, transfer: Transfer, asset: Asset, spool: Spool) -> None:
        transfer.enter("store", asset.size)

        async def begun(upload: str) -> None:
            await self._ways.ledger.begun(row, lease.claim, asset.n, upload)

        def progress(done: int, total: int) -> None:
            transfer.done, transfer.total = done, total

        what = PutRequest(asset.path, asset.mime, lease=str(lease.claim.lease), upload=asset.upload)
        with self._metrics.storing("put"):
            await self._ways.store.put(what, spool, holds_lease=lease.ours, upload_started=begun, progress=progress)


def _told(row: Row, n: int) -> Any:
    return log.bind(generation_id=row.id, task_id=row.task_id, n=n)


def _named(row: Row, n: int, mime: str, spool: Spool) -> Asset:
    kind, ext = TYPES[mime]
    path = object_key(user_id=row.user_id, kind=kind, generation_id=row.id, n=n, ext=ext)
    return Asset(n, path, mime, spool.size, spool.sha256, spool.md5)


def _in_order(done: dict[int, Asset]) -> tuple[Asset, ...]:
    return tuple(done[n] for n in sorted(done))


def _unstored(error: ReconcilerError, stage: str, assets: tuple[Asset, ...]) -> DeliveryFailed:
    return DeliveryFailed(
        assets,
        stage,
        error.code,
        detail=str(error),
        gone=isinstance(error, Gone),
        permanent=isinstance(error, Permanent),
        retry_after=error.retry_after if isinstance(error, Transient) else None,
    )
