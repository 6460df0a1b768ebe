"""Gives claimed rows back to the database, and retries what could not be given back yet.

The worker gives back what it has claimed and does not visit, and the rows of visits that were cut short. The rows of
visits that lost their lease are audited: such a visit may have slept, and replaced its successor's object.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence

import structlog

from reconciler.errors import ReconcilerError
from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claim, Claims

log = structlog.get_logger()

RELEASE_SECONDS = 2.0
"""Seconds for which a row that is being written is tried again, and for which a drain waits for the database."""

BUSY_SECONDS = 0.5
"""Seconds until a row that was being written is woken, or given back, again."""

BROKEN_SECONDS = 60.0
"""Seconds until a generation is visited again after its visit broke."""


class Releases:
    """What one process gives back; `owed` claims are those that it could not give back yet.

    `suspects` are the generations whose audit is still to be planned.
    """

    def __init__(self, claims: Claims, metrics: Metrics) -> None:
        self._claims = claims
        self._metrics = metrics
        self._owed: list[Claim] = []
        self._suspects: set[str] = set()

    async def give_back(self, claims: Sequence[Claim], *, seconds: float) -> None:
        """Give rows back, due again in so many seconds; what cannot be given back now is owed."""
        with contextlib.suppress(ReconcilerError):
            await self._audit_suspects()
        self._owed += await self._released(claims, seconds)

    async def give_back_broken(self, claim: Claim, task_id: str | None = None) -> None:
        """Give back the row of a visit that broke, and log the error that is being handled."""
        log.exception("visit.broke", generation_id=claim.generation_id, task_id=task_id)
        self._metrics.missed("visit", "broke")
        await self.give_back([claim], seconds=BROKEN_SECONDS)

    def owe(self, claims: Sequence[Claim]) -> None:
        """Note rows to give back later, even if the caller is cancelled before it can."""
        self._owed += claims

    def suspect(self, claim: Claim) -> None:
        """Note that a visit may have written after it lost this lease; `retry` and `settle` have the row audited."""
        self._suspects.add(claim.generation_id)

    async def retry(self) -> None:
        """Give back what is owed since the database was away: until then no other instance can have it."""
        await self._audit_suspects()
        if owed := tuple(self._owed):
            await self._claims.release(owed, seconds=0.0)
            self._owed = [claim for claim in self._owed if claim not in owed]

    async def settle(self, *, seconds: float) -> None:
        """Give back what is owed, due again in so many seconds; rows that are being written are tried again."""
        with contextlib.suppress(ReconcilerError):
            await self._audit_suspects()
        owed = tuple(self._owed)
        remaining = await self._released(owed, seconds)
        self._owed = [claim for claim in self._owed if claim in remaining or claim not in owed]

    async def _audit_suspects(self) -> None:
        if suspects := tuple(self._suspects):
            # A row that is being written now is tried again.
            self._suspects -= set(suspects) - set(await self._claims.audit_lost(suspects))

    async def _released(self, claims: Sequence[Claim], seconds: float) -> list[Claim]:
        """Give rows back for at most RELEASE_SECONDS; return those that are still held."""
        remaining, until = list(claims), time.monotonic() + RELEASE_SECONDS
        with contextlib.suppress(ReconcilerError):
            while remaining and time.monotonic() < until:
                await self._claims.release(remaining, seconds=seconds)
                released = await self._claims.lost(remaining)
                if remaining := [claim for claim in remaining if claim.lease not in released]:
                    await asyncio.sleep(BUSY_SECONDS)
        return remaining
