"""Brings every result of a task into our storage, one asset at a time, each with its receipt.

Source -> spool (hashed, sniffed, bounded) -> path written down -> put -> proof -> receipt. An asset with a receipt is
not transferred again. Where one source fails the delivery stops, and the visit learns at which stage and why. Only the
visit calls this.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, replace
from functools import partial
from typing import Any

import structlog

from reconciler.domain.model import Asset, DeliveryFailed, Row, Stored
from reconciler.domain.object_keys import MediaType, object_key
from reconciler.domain.transfer import Transfer
from reconciler.errors import Gone, LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.kie.client import KieClient
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import Spool, SpoolDirectory
from reconciler.metrics import Metrics
from reconciler.postgres.ledger.ledger import Ledger, StoredResults
from reconciler.storage import PutRequest, Store, prove
from reconciler.tracing import Tracing
from reconciler.worker.lease import Lease

log = structlog.get_logger()

RENEWABLE = frozenset({"host_unlisted"})
"""Codes of refused addresses, besides dead ones, that KIE's download-url can replace by an address that we accept."""

SMALL_BYTES = 6 << 20
"""Up to this size the last receipt is written with the success: losing both costs a short transfer only."""


class TransferProgress:
    """Follows one result through its stages."""

    def __init__(self, generation_id: str, n: int) -> None:
        self._transfer = Transfer(generation_id=generation_id, n=n, stage="fetch")
        self._began = time.monotonic()

    def enter(self, stage: str, total: int) -> None:
        """Begin the next stage, of so many bytes."""
        self._transfer = replace(self._transfer, stage=stage, done=0, total=total)
        self._began = time.monotonic()

    def move(self, done: int, total: int | None) -> None:
        """Note how many bytes of this stage are done."""
        self._transfer = replace(self._transfer, done=done, total=total)

    def now(self) -> Transfer:
        """Return the transfer as it is at this moment."""
        return replace(self._transfer, seconds=round(time.monotonic() - self._began, 3))


@dataclass(eq=False)
class Deliverer:
    """Delivers at most `slots` generations at once."""

    ledger: Ledger
    kie: KieClient
    fetcher: Fetcher
    spool_dir: SpoolDirectory
    store: Store
    metrics: Metrics
    tracing: Tracing
    slots: InitVar[int]

    def __post_init__(self, slots: int) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._under_way: dict[str, TransferProgress] = {}

    @property
    def transfers(self) -> Mapping[str, Transfer]:
        """Return what is under way at this moment, by generation id."""
        return {generation_id: progress.now() for generation_id, progress in self._under_way.items()}

    def results(self, row: Row, unwritten: Asset | None) -> StoredResults:
        """Return what the success of a delivered row writes; `unwritten` is the asset whose receipt goes with it."""
        paths = [asset.path for asset in row.assets[: len(row.sources)]]
        return StoredResults([self.store.address(path) for path in paths], paths, unwritten)

    async def deliver(self, row: Row, lease: Lease) -> Stored | DeliveryFailed:
        """Store and prove every source that has no receipt yet; LeaseLost when another instance has taken over."""
        assets = {asset.n: asset for asset in row.assets}
        unwritten: Asset | None = None
        async with self._slots:
            for n in range(len(row.sources)):
                if n in assets and assets[n].stored:
                    continue
                progress = self._under_way[row.id] = TransferProgress(row.id, n)
                try:
                    asset = await self._deliver_one(row, n, lease, progress, assets.get(n))
                    if n == len(row.sources) - 1 and asset.size <= SMALL_BYTES:
                        unwritten = asset
                    else:
                        await self.ledger.stored(row, lease.claim, asset)
                    assets[n] = asset
                except LeaseLost:
                    raise
                except ReconcilerError as error:
                    stage = progress.now().stage
                    self.metrics.missed(stage, error.code)
                    _logger(row, n).warning("asset.not_stored", stage=stage, code=error.code, reason=str(error))
                    return _delivery_failed(error, stage, _in_order(assets))
                finally:
                    # A visit that lost its lease can still run next to its successor in this process.
                    if self._under_way.get(row.id) is progress:
                        del self._under_way[row.id]
        return Stored(_in_order(assets), unwritten)

    async def _deliver_one(
        self, row: Row, n: int, lease: Lease, progress: TransferProgress, before: Asset | None
    ) -> Asset:
        """Fetch, store and prove one source; `before` is what an earlier attempt wrote down about it."""
        step = partial(self.tracing.step, generation_id=row.id, task_id=row.task_id, n=n)
        async with self.spool_dir.spool() as spool:
            with step("download") as span:
                mime = await self._fetch(row, n, progress, spool)
                span.note(bytes=spool.size)
            asset = _asset(row, n, mime, self.fetcher.types[mime], spool)
            if before is not None and _content(before) == _content(asset):
                asset = replace(asset, upload=before.upload)
            await self.ledger.intend(row, lease.claim, asset)
            began = time.monotonic()
            with step("upload", bytes=asset.size):
                await self._put(row, lease, progress, asset, spool)
        progress.enter("prove", asset.size)
        with step("verify", bytes=asset.size), self.metrics.storing("prove"):
            receipt = await prove(self.store, asset.path, size=asset.size, sha256=asset.sha256, md5=asset.md5)
        self.metrics.uploaded.inc(asset.size)
        took = round(time.monotonic() - began, 3)
        _logger(row, n).info("asset.stored", path=asset.path, bytes=asset.size, took=took)
        return replace(asset, version=receipt.version, verified_by=receipt.verified_by)

    async def _fetch(self, row: Row, n: int, progress: TransferProgress, spool: Spool) -> str:
        """Download one source into the spool, from a renewed address where its own is refused; return its MIME type."""
        began = time.monotonic()
        source = row.sources[n]
        try:
            mime = await self.fetcher.fetch(source, spool, progress=progress.move)
        except Permanent as refused:
            if row.key_hash is None or not (isinstance(refused, Gone) or refused.code in RENEWABLE):
                raise
            try:
                with self.metrics.asking("download_url"):
                    renewed = await self.kie.download_url(source, key_hash=row.key_hash)
            except (Transient, Permanent):
                # Where KIE gives no other address, the first refusal is the one to act on.
                raise refused from None
            announced = self.fetcher.announced_by(source)
            mime = await self.fetcher.fetch(renewed, spool, announced=announced, progress=progress.move)
        self.metrics.downloaded.inc(spool.size)
        _logger(row, n).info("asset.downloaded", bytes=spool.size, took=round(time.monotonic() - began, 3))
        return mime

    async def _put(self, row: Row, lease: Lease, progress: TransferProgress, asset: Asset, spool: Spool) -> None:
        async def begun(upload: str) -> None:
            await self.ledger.save_upload_name(row, lease.claim, asset.n, upload)

        progress.enter("store", asset.size)
        request = PutRequest(asset.path, asset.mime, lease=str(lease.claim.lease), upload=asset.upload)
        with self.metrics.storing("put"):
            await self.store.put(
                request, spool, holds_lease=lease.trusted, upload_started=begun, progress=progress.move
            )


def _logger(row: Row, n: int) -> Any:
    return log.bind(generation_id=row.id, task_id=row.task_id, n=n)


def _asset(row: Row, n: int, mime: str, stored: MediaType, spool: Spool) -> Asset:
    path = object_key(user_id=row.user_id, kind=stored.kind, generation_id=row.id, n=n, ext=stored.ext)
    return Asset(n, path, mime, spool.size, spool.sha256, spool.md5)


def _content(asset: Asset) -> tuple[str, int, str]:
    """Return what must agree for a begun upload to go on."""
    return asset.path, asset.size, asset.sha256


def _in_order(assets: Mapping[int, Asset]) -> tuple[Asset, ...]:
    return tuple(assets[n] for n in sorted(assets))


def _delivery_failed(error: ReconcilerError, stage: str, assets: tuple[Asset, ...]) -> DeliveryFailed:
    return DeliveryFailed(
        assets,
        stage,
        error.code,
        detail=str(error),
        gone=isinstance(error, Gone),
        permanent=isinstance(error, Permanent),
        retry_after=error.retry_after if isinstance(error, Transient) else None,
    )
