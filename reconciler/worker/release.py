"""Gives rows back: those that are just being written a little later, the others as soon as the database is there.

`work` gives back through here what it has claimed and does not visit, and whatever a visit leaves in its hands.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import structlog

from reconciler.errors import ReconcilerError
from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claim, Claims

log = structlog.get_logger()

HASTE = 2.0
"""Seconds for which rows are given back again and again, and that a drain waits for the database at the end."""

BUSY = 0.5
"""Seconds until a row that was just being written is woken, or given back, again."""

AGAIN = 60.0
"""Seconds until a generation whose visit broke is looked at again."""


class Releases:
    """What one process gives back, and what it still owes."""

    def __init__(self, claims: Claims, metrics: Metrics) -> None:
        self._claims = claims
        self._metrics = metrics
        self._owed: list[Claim] = []

    async def give_back(self, claims: Sequence[Claim], *, seconds: float) -> None:
        """Give rows back, due again in so many seconds; what cannot be given back now is owed."""
        self._owed += await self._left(claims, seconds)

    async def broken(self, claim: Claim, task_id: str | None = None) -> None:
        """Give back a row whose visit broke, and tell of the error that is being handled: the row waits a minute."""
        log.exception("visit.broke", generation_id=claim.generation_id, task_id=task_id)
        self._metrics.missed("visit", "broke")
        await self.give_back([claim], seconds=AGAIN)

    def owe(self, claims: Sequence[Claim]) -> None:
        """Remember rows that are to be given back, whoever is cut short before."""
        self._owed += claims

    async def pay(self) -> None:
        """Give back what is owed: the database was away, and nobody else could have it before its leases end."""
        if owed := tuple(self._owed):
            await self._claims.release(owed, seconds=0.0)
            self._owed = [claim for claim in self._owed if claim not in owed]

    async def settle(self, *, seconds: float) -> None:
        """Give back what is owed, those that are just being written again and again for a while."""
        owed = tuple(self._owed)
        left = await self._left(owed, seconds)
        self._owed = [claim for claim in self._owed if claim in left or claim not in owed]

    async def _left(self, claims: Sequence[Claim], seconds: float) -> list[Claim]:
        """Give rows back; return what is still ours."""
        left, until = list(claims), time.monotonic() + HASTE
        with contextlib.suppress(ReconcilerError):
            while left and time.monotonic() < until:
                await self._claims.release(left, seconds=seconds)
                gone = await self._claims.lost(left)
                if left := [claim for claim in left if claim.lease not in gone]:
                    await asyncio.sleep(BUSY)
        return left
