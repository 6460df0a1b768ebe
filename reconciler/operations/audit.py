"""The audit that somebody asks for: every object delivered in a time is read back, and what is broken is repaired now.

Reading is `worker/periodic/verification.py`, repairing the same visit as everything else. Called by
the command `audit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import structlog

from reconciler.domain.model import Trigger
from reconciler.errors import ReconcilerError
from reconciler.operations.operator import Operator, kept, visit
from reconciler.postgres.ledger.verification import VerificationQueue, VerifiedDelivery
from reconciler.worker.periodic.verification import Verification, VerificationResult

log = structlog.get_logger()

UNREADABLE = 5
"""So many objects in a row that storage does not give: it is away, and the rest is left for another time."""


@dataclass(frozen=True, slots=True)
class BrokenDelivery:
    """One delivery of which something is missing or changed; `why` is for people.

    `waiting` is repaired by whoever looks next; `lost` KIE has no more.
    """

    generation_id: str
    task_id: str | None
    word: Literal["repaired", "waiting", "lost"]
    why: str


@dataclass(slots=True)
class AuditTotals:
    """What was looked at: deliveries, their objects and bytes, and how many were what."""

    deliveries: int = 0
    objects: int = 0
    bytes: int = 0
    broken: int = 0
    repaired: int = 0
    unread: int = 0
    left: int = 0

    @property
    def well(self) -> bool:
        """Whether everything could be read and was whole."""
        return not self.broken and not self.unread


@dataclass(frozen=True, slots=True)
class AuditReading:
    """What an audit needs: where deliveries are listed, what compares them, who hears of the broken."""

    audits: VerificationQueue
    audit: Verification
    on_broken: Callable[[BrokenDelivery], None]


async def audit(desk: Operator, reading: AuditReading, since: timedelta) -> AuditTotals:
    """Read back what was delivered within this time, the oldest first, and repair what is broken.

    Raises what storage said where it gives nothing any more.
    """
    totals, refusals = AuditTotals(), 0
    slots = asyncio.Semaphore(desk.at_once)

    async def read(one: VerifiedDelivery) -> VerificationResult | ReconcilerError:
        async with slots:
            try:
                return await reading.audit.compare(one, read=True)
            except ReconcilerError as error:
                log.warning("audit.away", generation_id=one.generation_id, code=error.code, reason=str(error))
                return error

    async with kept(desk.work):
        page = await reading.audits.page(since)
        while page:
            for found in await asyncio.gather(*(read(one) for one in page)):
                if isinstance(found, ReconcilerError):
                    totals.unread, refusals = totals.unread + 1, refusals + 1
                    if refusals >= UNREADABLE:
                        raise found
                    continue
                refusals = 0
                await _told(desk, reading, found, totals)
            page = await reading.audits.page(since, page[-1])
    return totals


async def _told(desk: Operator, reading: AuditReading, found: VerificationResult, totals: AuditTotals) -> None:
    if found.verdict == "left":
        totals.left += 1
        return
    totals.deliveries += 1
    totals.objects += len(found.audited.assets)
    totals.bytes += sum(asset.size for asset in found.audited.assets)
    reopened = await reading.audit.settle(found)
    if not found.broken:
        return
    totals.broken += 1
    broken = await _repaired(desk, found, reopened=reopened)
    totals.repaired += broken.word == "repaired"
    reading.on_broken(broken)


async def _repaired(desk: Operator, found: VerificationResult, *, reopened: bool) -> BrokenDelivery:
    one = found.audited
    if found.verdict == "lost":
        return BrokenDelivery(one.generation_id, one.task_id, "lost", f"{found.why}; KIE had it no more")
    if not reopened:
        return BrokenDelivery(one.generation_id, one.task_id, "waiting", f"{found.why}; somebody else has it in hand")
    try:
        case = (await visit(desk, one.generation_id, Trigger.SYNC)).case
    except ReconcilerError as error:
        return BrokenDelivery(one.generation_id, one.task_id, "waiting", f"{found.why}; {error}")
    if case is None or case.known is None:
        return BrokenDelivery(one.generation_id, one.task_id, "lost", f"{found.why}; the application deleted the row")
    if case.known.due_at is not None:
        return BrokenDelivery(one.generation_id, one.task_id, "waiting", f"{found.why}; {case.known.why}")
    if len(case.receipts) < len(one.assets):
        return BrokenDelivery(one.generation_id, one.task_id, "lost", f"{found.why}; {case.known.why}")
    return BrokenDelivery(one.generation_id, one.task_id, "repaired", found.why)
