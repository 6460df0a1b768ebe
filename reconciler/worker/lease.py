"""A lease as this process sees it: whether its visit may still write, by the uptime of this machine.

The database decides who holds a generation (`postgres/claims/claims.py`). A Lease only tells a visit, without asking
the database, when it must stop. The worker creates and prolongs it, the visit checks it.

    free ──claim──> held ──the visit writes its end──> ending ──> released (free again, due later)
                    │  ^                                 │
                    │  └── renewed every third of the term; a visit that begins again leaves `ending` for `held`
                    ├──the worker or a drain gives it back──> released
                    └──the database names another holder, or none──> lost (the visit is cancelled)

The uptime counts a suspension of this machine, which the monotonic clock does not: the lease has run out meanwhile. The
trust window is shorter than the lease. `sent_at` is taken before the claim or the renewal is sent, so the term ends
here no later than in the database; the margin keeps a late write from meeting a successor's:

    sent_at                               sent_at + term - margin     sent_at + term
      ├────────────── trusted ────────────────────────┼──────── margin ──────────┤
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from reconciler.boottime import boottime
from reconciler.errors import LeaseLost
from reconciler.postgres.claims.claims import Claim

T = TypeVar("T")

MARGIN = 5.0
"""Seconds before the end of a lease in which no bytes are sent; a third of the term where that is shorter."""


@dataclass(slots=True)
class Lease:
    """The right to write one generation for `term` seconds from `sent_at`, a time of `boottime`.

    `lost` is set once another holder is known. `ending` is set while the visit writes its end, which gives the lease
    back: a renewal that misses it then is no loss. `on_polled` tells the worker that the visit needs KIE no more;
    calling it twice is harmless.
    """

    claim: Claim
    term: float
    sent_at: float
    on_polled: Callable[[], None] = lambda: None
    lost: bool = False
    ending: bool = False

    def remaining(self) -> float:
        """Return the seconds until the lease ends, 0 once it is lost."""
        return 0.0 if self.lost else self.sent_at + self.term - boottime()

    def trusted(self) -> bool:
        """Return whether bytes may still be sent under this lease."""
        return self.remaining() > min(MARGIN, self.term / 3)

    async def outcome(self, visit: asyncio.Task[T]) -> T:
        """Return what the visit returns; LeaseLost where losing this lease cancelled the visit, but not the caller."""
        try:
            return await visit
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            assert caller is not None
            if self.lost and not caller.cancelling():
                raise LeaseLost("another instance has taken it over") from None
            raise
