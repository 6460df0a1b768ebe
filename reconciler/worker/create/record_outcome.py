"""Writes down what KIE said to a createTask: the task's id, or the refusal. Again and again, until it is written.

What KIE said is known to this process alone, so there is no giving up while it lives. Nothing here can reach KIE.
Called by `create.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import structlog

from reconciler.domain.model import OPEN, Fail, Reschedule, Trigger
from reconciler.errors import LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claim, Claims
from reconciler.postgres.create_requests import CreateRequests, GenerationState
from reconciler.postgres.ledger.ledger import ClaimedRow, Ledger

T = TypeVar("T")

log = structlog.get_logger()

AGAIN = 0.1
SELDOM = 30.0
"""Seconds between the first two and between the last tries."""


class OutcomeRecorder:
    """Settles creations for one instance."""

    def __init__(self, creations: CreateRequests, claims: Claims, ledger: Ledger, metrics: Metrics) -> None:
        self._creations = creations
        self._claims = claims
        self._ledger = ledger
        self._metrics = metrics

    async def saved(self, generation_id: str, task_id: str, *, key_hash: str) -> GenerationState | None:
        """Write the task's id and return how the row then stands, None when the application has deleted it."""
        bound = log.bind(generation_id=generation_id, task_id=task_id)
        return await _written(bound, lambda: self._creations.save(generation_id, task_id, key_hash=key_hash))

    async def failed(self, generation_id: str, reason: str) -> None:
        """Fail the row with this reason, event and hook included, unless it has ended or got a task by other hands."""
        bound = log.bind(generation_id=generation_id)
        # Kept first: this process may end before the hook or the table takes it.
        await _written(bound, lambda: self._creations.refused(generation_id, reason))
        await _written(bound, lambda: self._fail(generation_id, reason))
        await _written(bound, lambda: self._creations.refused(generation_id, None))

    async def _fail(self, generation_id: str, reason: str) -> None:
        standing = await self._creations.standing(generation_id)
        if standing is None or standing.status not in OPEN or standing.task_id is not None:
            return
        for claim in await self._claims.woken({generation_id: Trigger.SYNC}):
            held = (await self._ledger.read([generation_id])).get(generation_id)
            if held is None:
                await self._ledger.forget(claim)
            elif await self._ended(held, claim, reason):
                self._metrics.ended("failed", Trigger.SYNC)
                log.warning("generation.failed", generation_id=generation_id, reason=reason)
            else:
                await self._claims.release([claim], seconds=0.0)
                raise LeaseLost("the row has moved")
            return
        raise Transient("somebody else holds the row", code="held")

    async def _ended(self, held: ClaimedRow, claim: Claim, reason: str) -> bool:
        try:
            return await self._ledger.fail(held.row, claim, Fail(reason)) is not None
        except Permanent as error:
            # The hook or the table refuses: the row rests, so that `explain` can say for what.
            until = held.now + timedelta(seconds=SELDOM)
            why = f"createTask was refused: {reason}; {error}"
            await self._ledger.rest(held.row, claim, Reschedule(until, until, why, finding=error.code))
            raise


async def _written(bound: structlog.stdlib.BoundLogger, write: Callable[[], Awaitable[T]]) -> T:
    wait = AGAIN
    while True:
        try:
            return await write()
        except ReconcilerError as error:
            bound.warning("create.unwritten", code=error.code, reason=str(error))
        await asyncio.sleep(wait)
        wait = min(wait * 2, SELDOM)
