"""A claim with its clock: whether we may still write, by the monotonic clock of this process.

The database decides who holds a lease; this only tells, without asking it, when to stop. `work` prolongs, the visit
looks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TypeVar

from reconciler.errors import LeaseLost
from reconciler.postgres.claims.claims import Claim

T = TypeVar("T")

MARGIN = 5.0
"""Bytes stop flowing this many seconds before the lease ends, so that a late write cannot meet a successor's."""


@dataclass(slots=True)
class Lease:
    """The right to write one generation; `drawn` is the monotonic time just before the claim was sent.

    `ending` is set while the visit writes its last word, which gives the lease back: to be without it is then no loss.
    """

    claim: Claim
    term: float
    drawn: float
    lost: bool = False
    ending: bool = False

    def left(self) -> float:
        """Return the seconds left, none once it is known to be lost."""
        return 0.0 if self.lost else self.drawn + self.term - time.monotonic()

    def ours(self) -> bool:
        """Whether bytes may still flow under this lease."""
        return self.left() > min(MARGIN, self.term / 3)

    async def outcome(self, visit: asyncio.Task[T]) -> T:
        """Await a visit; LeaseLost where it was cut for want of this lease, since whoever asked is not cancelled."""
        try:
            return await visit
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            assert asking is not None
            if self.lost and not asking.cancelling():
                raise LeaseLost("another instance has taken it over") from None
            raise

    def prolong(self, drawn: float) -> None:
        """Count the term from `drawn`, the monotonic time just before the renewal was sent."""
        self.drawn = drawn
