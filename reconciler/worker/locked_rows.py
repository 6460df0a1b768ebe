"""Tries the writes again that wait for a lock of the application, few at once.

A write whose lock is not given within a tenth of a second leaves its row at rest (`visit.py`). Further tries are made
here, so that the connections that wait for locks of the application are few, however many rows it locks. The claims and
visits are the worker's: it renews their leases and drains them. The daemon runs `run`.
"""

import asyncio
from dataclasses import dataclass, field

from reconciler.domain.model import Reschedule
from reconciler.postgres.claims.claims import Claim, Claims
from reconciler.postgres.ledger.ledger import ClaimedRow
from reconciler.worker.lease import Lease
from reconciler.worker.visit import Visitor, VisitOutcome
from reconciler.worker.worker import CLAIM_PAUSE, Worker, claim_until

AT_ONCE = 2
"""Tries that one process makes at once."""

RETRY_LOCK_SECONDS = 0.3
"""How long such a try waits for the lock; with two at once, eighty locked rows are all tried within 12 s."""


@dataclass(eq=False)
class LockedRows:
    """The further tries of one instance; the ledger of `visitor` waits RETRY_LOCK_SECONDS for a lock.

    Without a sign of a locked row it looks every `sweep_seconds`: another instance may have left one.
    """

    claims: Claims
    worker: Worker
    visitor: Visitor
    sweep_seconds: float
    _trying: set[Claim] = field(default_factory=set, init=False)
    _stirred: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def on_visit(self, outcome: VisitOutcome) -> None:
        """Look sooner where a visit has left a locked row."""
        if isinstance(outcome.decision, Reschedule) and outcome.decision.locked_write is not None:
            self._stirred.set()

    async def run(self) -> None:
        """Try again until drained; neither an absent database nor an unexpected error ends the loop."""
        await claim_until(lambda: self.worker.draining, self._stirred, self._claim)

    async def _claim(self) -> float:
        """Claim the rows whose next try is due, as many as may be tried; return the seconds until the next look."""
        # A claim whose row was gone or unreadable became no try.
        self._trying = {claim for claim in self._trying if self.worker.holds(claim)}
        free = AT_ONCE - len(self._trying)
        seconds = await self.claims.next_locked() if free > 0 else None
        if seconds is None:
            return self.sweep_seconds
        if seconds <= 0:
            await self.worker.begin(lambda: self._claimed(free), self._try)
            return CLAIM_PAUSE
        return min(max(seconds, CLAIM_PAUSE), self.sweep_seconds)

    async def _claimed(self, free: int) -> list[Claim]:
        claims = await self.claims.locked(free)
        self._trying.update(claims)
        return claims

    async def _try(self, claimed_row: ClaimedRow, lease: Lease) -> VisitOutcome | None:
        try:
            return await self.visitor.write_again(claimed_row, lease)
        finally:
            self._trying.discard(lease.claim)
            self._stirred.set()
