"""Brings every result of a task into our storage, one asset at a time, each with its receipt.

Source -> spool (hashed, sniffed, bounded) -> path written down -> put -> proof -> receipt. A source is an address, or
text inside KIE's answer. An asset with a receipt is not transferred again. A result that cannot be fetched until
something changes is passed over; any other failure stops the delivery. The visit learns at which stage the first one
failed, and why. Only the visit calls this.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, replace
from datetime import datetime
from typing import Any

import structlog

from reconciler.domain.decide import is_repair
from reconciler.domain.model import Asset, DeliveryFailed, Result, Row, Stored
from reconciler.domain.object_keys import MediaType, object_key, object_number
from reconciler.domain.transfer import Transfer
from reconciler.errors import Gone, LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.kie.client import KieClient
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import Spool, SpoolDirectory
from reconciler.metrics import Metrics
from reconciler.postgres.ledger.ledger import Ledger, StoredResults
from reconciler.storage import PutRequest, Store, prove
from reconciler.tracing import Span, Tracing
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

    def results(self, row: Row, unwritten: Asset | None, recheck_at: datetime | None) -> StoredResults:
        """Return what the success of a row writes; `unwritten` is the asset whose receipt goes with it."""
        paths = {asset.n: asset.path for asset in row.assets}
        ordered = [paths[result.n] for result in row.stored]
        addresses = [self.store.address(path) for path in ordered]
        numbers = [result.n for result in row.stored]
        # A result that came late can stand before the one that asset_url shows.
        shown = object_number(row.id, row.asset_url) if is_repair(row) else None
        main = numbers.index(shown) if shown in numbers else 0
        return StoredResults(addresses, ordered, unwritten, recheck_at, main)

    async def deliver(self, row: Row, lease: Lease) -> Stored | DeliveryFailed:
        """Store and prove every result that can be and has no receipt yet.

        Raises LeaseLost when another instance has taken over.
        """
        assets = {asset.n: asset for asset in row.assets}
        unwritten: Asset | None = None
        failed: DeliveryFailed | None = None
        todo = row.unstored
        async with self._slots:
            for result in todo:
                progress = self._under_way[row.id] = TransferProgress(row.id, result.n)
                try:
                    asset = await self._deliver_one(row, result, lease, progress, assets.get(result.n))
                    if result is todo[-1] and not (row.missing or failed) and asset.size <= SMALL_BYTES:
                        unwritten = asset
                    else:
                        await self.ledger.stored(row, lease.claim, asset)
                    assets[result.n] = asset
                except LeaseLost:
                    raise
                except ReconcilerError as error:
                    stage = progress.now().stage
                    self.metrics.missed(stage, error.code)
                    logger = _logger(row, result.n)
                    logger.warning("asset.not_stored", stage=stage, code=error.code, reason=str(error))
                    failed = failed or _delivery_failed(error, stage, result.n)
                    # The addresses of the others expire while this one waits for a person.
                    if stage != "fetch" or not isinstance(error, Permanent):
                        break
                finally:
                    # A visit that lost its lease can still run next to its successor in this process.
                    if self._under_way.get(row.id) is progress:
                        del self._under_way[row.id]
        stored = tuple(assets[n] for n in sorted(assets))
        return replace(failed, assets=stored) if failed else Stored(stored, unwritten)

    async def _deliver_one(
        self, row: Row, result: Result, lease: Lease, progress: TransferProgress, before: Asset | None
    ) -> Asset:
        """Fetch, store and prove one result; `before` is what an earlier attempt wrote down about it.

        Its addresses are tried in turn. Where none can be fetched, the error is the first that does not say "gone".
        """
        refusals: list[ReconcilerError] = []
        for source in result.addresses or (None,):
            async with self.spool_dir.spool() as spool:
                try:
                    with self._step("download", row, result.n) as span:
                        mime = await self._fill(row, result, source, progress, spool)
                        span.note(bytes=spool.size)
                except LeaseLost:
                    raise
                except ReconcilerError as refused:
                    refusals.append(refused)
                    continue
                asset = _asset(row, result, mime, self.fetcher.types[mime], spool, before)
                return await self._store(row, asset, lease, progress, spool)
        raise next((refused for refused in refusals if not isinstance(refused, Gone)), refusals[0])

    async def _store(self, row: Row, asset: Asset, lease: Lease, progress: TransferProgress, spool: Spool) -> Asset:
        """Write down where the asset goes, send it and prove it; return it with its receipt."""
        await self.ledger.intend(row, lease.claim, asset)
        began = time.monotonic()
        with self._step("upload", row, asset.n, bytes=asset.size):
            await self._put(row, lease, progress, asset, spool)
        progress.enter("prove", asset.size)
        with self._step("verify", row, asset.n, bytes=asset.size), self.metrics.storing("prove"):
            receipt = await prove(self.store, asset.path, size=asset.size, sha256=asset.sha256, md5=asset.md5)
        self.metrics.uploaded.inc(asset.size)
        took = round(time.monotonic() - began, 3)
        _logger(row, asset.n).info("asset.stored", path=asset.path, bytes=asset.size, took=took)
        return replace(asset, version=receipt.version, verified_by=receipt.verified_by)

    def _step(self, name: str, row: Row, n: int, **facts: int) -> Span:
        return self.tracing.step(name, generation_id=row.id, task_id=row.task_id, n=n, **facts)

    async def _fill(
        self, row: Row, result: Result, source: str | None, progress: TransferProgress, spool: Spool
    ) -> str:
        """Fill the spool from this address, or with the text of the result where it has none; return its MIME type."""
        if source is not None:
            return await self._fetch(row, result, source, progress, spool)
        await spool.write((result.text or "").encode())
        await spool.seal()
        return result.mime or "text/plain"

    async def _fetch(self, row: Row, result: Result, source: str, progress: TransferProgress, spool: Spool) -> str:
        """Download one source into the spool, from a renewed address where its own is refused; return its MIME type."""
        began = time.monotonic()
        try:
            mime = await self.fetcher.fetch(source, spool, announced=result.mime, progress=progress.move)
        except Permanent as refused:
            if row.key_hash is None or not (isinstance(refused, Gone) or refused.code in RENEWABLE):
                raise
            try:
                with self.metrics.asking("download_url"):
                    renewed = await self.kie.download_url(source, key_hash=row.key_hash)
            except (Transient, Permanent):
                # Where KIE gives no other address, the first refusal is the one to act on.
                raise refused from None
            announced = result.mime or self.fetcher.announced_by(source)
            mime = await self.fetcher.fetch(renewed, spool, announced=announced, progress=progress.move)
        self.metrics.downloaded.inc(spool.size)
        _logger(row, result.n).info("asset.downloaded", bytes=spool.size, took=round(time.monotonic() - began, 3))
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


def _asset(row: Row, result: Result, mime: str, stored: MediaType, spool: Spool, before: Asset | None) -> Asset:
    """Return the asset of these bytes; `before` is what an earlier attempt wrote down about the same result."""
    asset = Asset(result.n, "", mime, spool.size, spool.sha256, spool.md5)
    if before is not None and before.sha256 == spool.sha256:
        # The same bytes keep their path, and an upload of them that was begun goes on.
        return replace(asset, path=before.path, upload=before.upload)
    # An address that was shown must not get other bytes: a cache may hold the former ones.
    replaces = spool.sha256 if is_repair(row) and before is not None else _former_task(row)
    path = object_key(
        user_id=row.user_id, kind=stored.kind, generation_id=row.id, n=result.n, ext=stored.ext, replaces=replaces
    )
    return replace(asset, path=path)


def _former_task(row: Row) -> str | None:
    """Return the task whose results need other paths than those of the row's first task; None for the first."""
    return row.task_id if row.another_task else None


def _delivery_failed(error: ReconcilerError, stage: str, n: int) -> DeliveryFailed:
    return DeliveryFailed(
        (),
        stage,
        error.code,
        detail=str(error),
        n=n,
        gone=isinstance(error, Gone),
        permanent=isinstance(error, Permanent),
        retry_after=error.retry_after if isinstance(error, Transient) else None,
    )
