"""Brings every result of a task into our storage, one asset at a time, each with its receipt.

Source -> spool (hashed, sniffed, bounded) -> path written down -> put -> proof -> receipt. A source is an address, or
text inside KIE's answer. An asset with a receipt is not transferred again. A result that cannot be fetched until
something changes is passed over; any other failure stops the delivery. The visit learns at which stage the first one
failed, and why. Only the visit calls this.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import structlog

from reconciler.domain.ended_rows import is_repair
from reconciler.domain.model import Asset, Result, Row, Trigger
from reconciler.domain.object_keys import MediaType, object_key, object_number
from reconciler.domain.observations import DeliveryFailed, DeliveryPostponed, Stored
from reconciler.domain.transfer import Transfer
from reconciler.errors import Gone, LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.kie.client import KieClient
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import Spool, SpoolDirectory
from reconciler.metrics import Metrics
from reconciler.postgres.ledger.ledger import Ledger, StoredResults
from reconciler.storage import PutRequest, Store, prove
from reconciler.tracing import Span, Tracing
from reconciler.worker.capacity.breakers import SILENT_CODES, Breakers, TargetSilent
from reconciler.worker.capacity.fair_slots import FairSlots, NoRoom
from reconciler.worker.capacity.transfer_speeds import TransferSpeeds
from reconciler.worker.lease import Lease

log = structlog.get_logger()

RENEWABLE = frozenset({"host_unlisted"})
"""Codes of refused addresses, besides dead ones, that KIE's download-url can replace by an address that we accept."""

SMALL_BYTES = 6 << 20
"""Up to this size the last receipt is written with the success: losing both costs a short transfer only."""


REQUESTED = frozenset({Trigger.SYNC, Trigger.BACKFILL})
"""Triggers of visits whose caller waits for the outcome."""

REQUESTED_PATIENCE = 20.0
"""Seconds for which a requested visit waits for a slot."""


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
    """Delivers `concurrency` generations at once, in slots that result hosts share.

    Slow ones, and those that make way for another host, go on beside: at most as many again.
    """

    ledger: Ledger
    kie: KieClient
    fetcher: Fetcher
    spool_dir: SpoolDirectory
    store: Store
    metrics: Metrics
    tracing: Tracing
    concurrency: InitVar[int]

    def __post_init__(self, concurrency: int) -> None:
        self.slots = FairSlots(concurrency)
        self.breakers = Breakers("host_silent", "host")
        self.speeds = TransferSpeeds()
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

    def postponed(self, row: Row) -> DeliveryPostponed | None:
        """Return that the delivery has to wait, where each result that is not stored lies on a silent host only."""
        silent = None
        for result in _todo(row):
            hosts = [_host(address) for address in result.addresses]
            if not hosts or any(self.breakers.admits(host, row.id) for host in hosts):
                return None
            silent = silent or hosts[0]
        return None if silent is None else _postponed(row.assets, self.breakers.refusal(silent))

    async def deliver(self, row: Row, lease: Lease) -> Stored | DeliveryFailed | DeliveryPostponed:
        """Store and prove every result that can be and has no receipt yet, and documents that have changed.

        Raises LeaseLost when another instance has taken over.
        """
        if (postponed := self.postponed(row)) is not None:
            return postponed
        patience = REQUESTED_PATIENCE if lease.claim.trigger in REQUESTED else None
        try:
            async with self.slots.hold(self._group(row), is_slow=lambda: self._is_slow(row.id), patience=patience):
                return await self._deliver_all(row, lease)
        except NoRoom as full:
            return _postponed(row.assets, full)

    def _group(self, row: Row) -> str:
        """Return the host for which this row takes a slot: the first that is not silent; "" for words."""
        hosts = [_host(address) for result in _todo(row) for address in result.addresses]
        return next((host for host in hosts if not self.breakers.is_open(host)), hosts[0] if hosts else "")

    def _is_slow(self, generation_id: str) -> bool:
        progress = self._under_way.get(generation_id)
        return progress is not None and self.speeds.is_slow(progress.now())

    async def _deliver_all(self, row: Row, lease: Lease) -> Stored | DeliveryFailed | DeliveryPostponed:
        assets = {asset.n: asset for asset in row.assets}
        unwritten: Asset | None = None
        failed: DeliveryFailed | None = None
        silent: TargetSilent | None = None
        todo = _todo(row)
        for result in todo:
            progress = self._under_way[row.id] = TransferProgress(row.id, result.n)
            try:
                asset = await self._deliver_one(row, result, lease, progress, assets.get(result.n))
                if result is todo[-1] and not (row.missing or failed or silent) and asset.size <= SMALL_BYTES:
                    unwritten = asset
                else:
                    await self.ledger.stored(row, lease.claim, asset)
                assets[result.n] = asset
            except LeaseLost:
                raise
            except TargetSilent as waits:
                silent = silent or waits
            except ReconcilerError as error:
                failed = failed or self._note_failure(row, result, progress.now().stage, error)
                # The addresses of the others expire while this one waits for a person.
                if progress.now().stage != "fetch" or not isinstance(error, Permanent):
                    break
            finally:
                # A visit that lost its lease can still run next to its successor in this process.
                if self._under_way.get(row.id) is progress:
                    del self._under_way[row.id]
        stored = tuple(assets[n] for n in sorted(assets))
        if failed is None and silent is not None:
            return _postponed(stored, silent)
        return replace(failed, assets=stored) if failed else Stored(stored, unwritten)

    def _note_failure(self, row: Row, result: Result, stage: str, error: ReconcilerError) -> DeliveryFailed:
        self.metrics.missed(stage, error.code)
        logger = _logger(row, result.n)
        logger.warning("asset.not_stored", stage=stage, code=error.code, reason=str(error))
        return _delivery_failed(error, stage, result.n)

    async def _deliver_one(
        self, row: Row, result: Result, lease: Lease, progress: TransferProgress, before: Asset | None
    ) -> Asset:
        """Fetch, store and prove one result; `before` is what an earlier attempt wrote down about it.

        Its addresses are tried in turn. Where none can be fetched, the error is the first that a host has caused and
        that does not say "gone", else that a host is silent and was not asked.
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
        raise min(refusals, key=_rank)

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
            mime = await self._fetch_from(row, source, spool, progress, result.mime)
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
            mime = await self._fetch_from(row, renewed, spool, progress, announced)
        self.speeds.ended(progress.now())
        self.metrics.downloaded.inc(spool.size)
        _logger(row, result.n).info("asset.downloaded", bytes=spool.size, took=round(time.monotonic() - began, 3))
        return mime

    async def _fetch_from(
        self, row: Row, address: str, spool: Spool, progress: TransferProgress, announced: str | None
    ) -> str:
        """Download from one address and tell its host's breaker; raise TargetSilent where the host is not asked now."""
        attempt = self.breakers.attempt(_host(address), row.id)
        was_heard = False

        def heard() -> None:
            nonlocal was_heard
            was_heard = True
            attempt.heard()

        def moved(done: int, total: int | None) -> None:
            attempt.heard()
            progress.move(done, total)

        try:
            return await self.fetcher.fetch(address, spool, announced=announced, progress=moved, answered=heard)
        except Transient as error:
            if error.code in SILENT_CODES and not was_heard:
                attempt.silent()
            raise

    async def _put(self, row: Row, lease: Lease, progress: TransferProgress, asset: Asset, spool: Spool) -> None:
        async def begun(upload: str) -> None:
            await self.ledger.save_upload_name(row, lease.claim, asset.n, upload)

        progress.enter("store", asset.size)
        request = PutRequest(asset.path, asset.mime, lease=str(lease.claim.lease), upload=asset.upload)
        with self.metrics.storing("put"):
            await self.store.put(
                request, spool, holds_lease=lease.trusted, upload_started=begun, progress=progress.move
            )
        self.speeds.ended(progress.now())


def _logger(row: Row, n: int) -> Any:
    return log.bind(generation_id=row.id, task_id=row.task_id, n=n)


def _todo(row: Row) -> Sequence[Result]:
    return (*_outdated(row), *row.unstored)


def _host(address: str) -> str:
    """Return the host of an address with its port, "" where it is malformed."""
    try:
        return urlsplit(address).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


def _rank(refused: ReconcilerError) -> int:
    """Return how little a failed address tells of its result, from 0: the least is the one to act on."""
    return 2 if isinstance(refused, Gone) else 1 if isinstance(refused, TargetSilent) else 0


def _postponed(assets: tuple[Asset, ...], cause: NoRoom | TargetSilent) -> DeliveryPostponed:
    return DeliveryPostponed(assets, cause.code, str(cause), cause.retry_after or 0.0)


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


def _outdated(row: Row) -> tuple[Result, ...]:
    """Return the stored documents whose text KIE has changed since, for example when a missing result came.

    None where addresses were shown: they must not get other bytes.
    """
    if row.shown is not None or is_repair(row):
        return ()
    stored = {asset.n: asset.sha256 for asset in row.assets}
    return tuple(
        result
        for result in row.stored
        if result.text is not None and hashlib.sha256(result.text.encode()).hexdigest() != stored[result.n]
    )


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
