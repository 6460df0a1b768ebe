"""Writes down what KIE answered to a createTask, the task's id or the refusal, and retries until it is written.

Only this process knows the answer, so it never gives up while it lives. Nothing here can reach KIE. Called by
`create_task.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog

from reconciler.domain.locked_write import wait_for_lock
from reconciler.domain.model import OPEN, Fail, Reschedule, Trigger
from reconciler.errors import LeaseLost, Locked, Permanent, ReconcilerError, Transient
from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claim, Claims
from reconciler.postgres.create_requests import CreateRequests, GenerationState
from reconciler.postgres.ledger.ledger import ClaimedRow, Ledger

T = TypeVar("T")

log = structlog.get_logger()

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
"""Seconds between the first two attempts, doubled from then on, and the most seconds between two."""


@dataclass(frozen=True, slots=True)
class OutcomeRecorder:
    """Records the outcomes of one instance's createTask requests."""

    requests: CreateRequests
    claims: Claims
    ledger: Ledger
    metrics: Metrics

    async def record_task(
        self, generation_id: str, task_id: str, *, key_hash: str, dialect: str
    ) -> GenerationState | None:
        """Write the task's id; return the row's state then, None when the application has deleted the row."""
        logger = log.bind(generation_id=generation_id, task_id=task_id)
        return await _until_written(
            logger, lambda: self.requests.save(generation_id, task_id, key_hash=key_hash, dialect=dialect)
        )

    async def record_failure(self, generation_id: str, reason: str) -> None:
        """Fail the row for this reason, with its event and hook, unless it has ended or got a task in another way."""
        logger = log.bind(generation_id=generation_id)
        # The reason is stored first: this process may end before the hook or the table accepts the failure.
        await _until_written(logger, lambda: self.requests.note_refusal(generation_id, reason))
        await _until_written(logger, lambda: self._fail(generation_id, reason))
        await _until_written(logger, lambda: self.requests.note_refusal(generation_id, None))

    async def _fail(self, generation_id: str, reason: str) -> None:
        state = await self.requests.state(generation_id)
        if state is None or state.status not in OPEN or state.task_id is not None:
            return
        for claim in await self.claims.woken({generation_id: Trigger.SYNC}):
            claimed_row = (await self.ledger.read([generation_id])).get(generation_id)
            if claimed_row is None:
                await self.ledger.forget(claim)
            elif await self._fail_claimed(claimed_row, claim, reason):
                self.metrics.ended("failed", Trigger.SYNC)
                log.warning("generation.failed", generation_id=generation_id, reason=reason)
            else:
                await self.claims.release([claim], seconds=0.0)
                raise LeaseLost("the row has changed")
            return
        raise Transient("another claim holds the row", code="held")

    async def _fail_claimed(self, claimed_row: ClaimedRow, claim: Claim, reason: str) -> bool:
        """Fail a claimed row; return whether it was written."""
        row, fail = claimed_row.row, Fail(reason)
        try:
            return await self.ledger.fail(row, claim, fail) is not None
        except Locked as error:
            await self.ledger.rest(row, claim, wait_for_lock(row, fail, claimed_row.now, reason=str(error)))
            raise
        except Permanent as error:
            # The hook or the table rejects the failure. The row says so, and `explain` can show it.
            until = claimed_row.now + timedelta(seconds=LONGEST_PAUSE)
            why = f"createTask was refused: {reason}; {error}"
            await self.ledger.rest(row, claim, Reschedule(until, until, why, finding=error.code))
            raise


async def _until_written(logger: structlog.stdlib.BoundLogger, write: Callable[[], Awaitable[T]]) -> T:
    pause = FIRST_PAUSE
    while True:
        try:
            return await write()
        except ReconcilerError as error:
            logger.warning("create.unwritten", code=error.code, reason=str(error))
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
