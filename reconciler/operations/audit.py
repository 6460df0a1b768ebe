"""`audit`: read back every object that was delivered lately, and repair what is broken.

`worker/periodic/verification.py` compares, and a repair is an ordinary visit. Called by the command line.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import structlog

from reconciler.domain.model import Trigger
from reconciler.errors import ReconcilerError
from reconciler.operations.operator import Operator, leases_kept
from reconciler.postgres.ledger.verification import VerificationQueue, VerifiedDelivery
from reconciler.worker.periodic.verification import Verification, VerificationResult

log = structlog.get_logger()

MOST_UNREAD = 5
"""After so many deliveries in a row that storage does not return, it counts as away and the audit ends."""


@dataclass(frozen=True, slots=True)
class BrokenDelivery:
    """A delivery of which an object is missing or changed; `why` is a sentence for people.

    `waiting`: a later visit repairs it. `lost`: KIE no longer has it.
    """

    generation_id: str
    task_id: str | None
    word: Literal["repaired", "waiting", "lost"]
    why: str


@dataclass(slots=True)
class AuditTotals:
    """The deliveries that were read, their objects and bytes, and the number of deliveries with each result.

    `unread`: storage did not return it. `left`: its row no longer shows it, or it is being repaired.
    """

    deliveries: int = 0
    objects: int = 0
    bytes: int = 0
    broken: int = 0
    repaired: int = 0
    unread: int = 0
    left: int = 0

    @property
    def well(self) -> bool:
        """Return whether every delivery could be read and was whole."""
        return not self.broken and not self.unread


@dataclass(frozen=True, slots=True)
class Audit:
    """Compares deliveries with storage and repairs them; `on_broken` gets each one that is broken."""

    operator: Operator
    queue: VerificationQueue
    verification: Verification
    on_broken: Callable[[BrokenDelivery], None]

    async def run(self, since: timedelta) -> AuditTotals:
        """Read back what was delivered within this time, the oldest first, and repair what is broken.

        Raises storage's error where it returns nothing any more.
        """
        totals, unread_in_a_row = AuditTotals(), 0
        slots = asyncio.Semaphore(self.operator.at_once)
        async with leases_kept(self.operator.worker):
            page = await self.queue.page(since)
            while page:
                for result in await asyncio.gather(*(self._compare(delivery, slots) for delivery in page)):
                    if isinstance(result, ReconcilerError):
                        totals.unread, unread_in_a_row = totals.unread + 1, unread_in_a_row + 1
                        if unread_in_a_row >= MOST_UNREAD:
                            raise result
                        continue
                    unread_in_a_row = 0
                    await self._settle(result, totals)
                page = await self.queue.page(since, page[-1])
        return totals

    async def _compare(
        self, delivery: VerifiedDelivery, slots: asyncio.Semaphore
    ) -> VerificationResult | ReconcilerError:
        async with slots:
            try:
                return await self.verification.compare(delivery, read=True)
            except ReconcilerError as error:
                log.warning("audit.away", generation_id=delivery.generation_id, code=error.code, reason=str(error))
                return error

    async def _settle(self, result: VerificationResult, totals: AuditTotals) -> None:
        if result.verdict == "left":
            totals.left += 1
            return
        totals.deliveries += 1
        totals.objects += len(result.audited.assets)
        totals.bytes += sum(asset.size for asset in result.audited.assets)
        reopened = await self.verification.settle(result)
        if not result.broken:
            return
        totals.broken += 1
        broken = await self._repair(result, reopened=reopened)
        totals.repaired += broken.word == "repaired"
        self.on_broken(broken)

    async def _repair(self, result: VerificationResult, *, reopened: bool) -> BrokenDelivery:
        delivery = result.audited

        def broken(word: Literal["repaired", "waiting", "lost"], more: str | None = None) -> BrokenDelivery:
            why = result.why if more is None else f"{result.why}; {more}"
            return BrokenDelivery(delivery.generation_id, delivery.task_id, word, why)

        if result.verdict == "lost":
            return broken("lost", "KIE no longer has it")
        if not reopened:
            return broken("waiting", "another visit holds it")
        try:
            details = (await self.operator.visit(delivery.generation_id, Trigger.SYNC)).details
        except ReconcilerError as error:
            return broken("waiting", str(error))
        if details is None or details.known is None:
            return broken("lost", "the application deleted the row")
        if details.known.due_at is not None:
            return broken("waiting", str(details.known.why))
        if len(details.receipts) < len(delivery.assets):
            return broken("lost", str(details.known.why))
        return broken("repaired")
