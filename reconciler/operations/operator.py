"""Visits that a person asks for, and how a generation stands afterwards.

`Operator` visits a generation now, or waits for the replica that holds it. `sync.py`, `retry.py`, `backfill.py`,
`audit.py` and `single_flight.py` call it. The visit itself is the daemon's own (`worker/visit.py`): nothing is decided
or written here.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass
from typing import Literal

import structlog

from reconciler.domain.model import OPEN, SUCCEEDED, Trigger
from reconciler.domain.observations import Observation
from reconciler.errors import LeaseLost
from reconciler.operations.explain import ended
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.reports.generation_details import GenerationDetails
from reconciler.postgres.reports.reports import Reports
from reconciler.settings import Settings
from reconciler.worker.worker import Worker

log = structlog.get_logger()

RECHECK_SECONDS = 0.3
"""The time between two looks at a generation that another replica holds."""

Word = Literal["delivered", "failed", "working", "left"]


@dataclass(frozen=True, slots=True)
class TaskState:
    """The generation after a visit, None where its row is gone, and KIE's last answer to this visit.

    `observation` is None where there was nothing to ask, or another replica asked.
    """

    details: GenerationDetails | None
    observation: Observation | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """Makes visits on request, `at_once` at a time in a backfill or an audit.

    `patience` is how many seconds it waits for a lease of another replica. `pause` is how many seconds must lie between
    the last look at a row and a visit.
    """

    worker: Worker
    reports: Reports
    reopener: Reopener
    settings: Settings
    at_once: int = 1
    patience: float = 120.0
    pause: float = 0.0

    async def visit(self, generation_id: str, trigger: Trigger) -> TaskState:
        """Visit a generation now, or wait until the replica that holds it has done so; not where it has ended whole.

        The caller keeps the leases (`leases_kept`). Raises Transient when the database is away or the process drains.
        """
        deadline = time.monotonic() + self.patience
        before = await self.reports.details(generation_id)
        if before is None or (ended(before, self.settings) and not before.partial):
            return TaskState(before)
        await self._wait_for_pause(before)
        observation: Observation | None = None
        try:
            visited = await self.worker.once(generation_id, trigger)
            if visited is not None and visited.row.polls == 0:
                # While many rows are new, the first visit only takes a place in the queue; the second one asks KIE.
                visited = await self.worker.once(generation_id, trigger)
            observation = visited.observation if visited is not None else None
        except LeaseLost:
            log.info("lease.lost", generation_id=generation_id)
        while True:
            details = await self.reports.details(generation_id)
            if details is None or not details.held or time.monotonic() > deadline:
                return TaskState(details, observation)
            await asyncio.sleep(RECHECK_SECONDS)
            if self.worker.draining:
                return TaskState(details, observation)

    async def _wait_for_pause(self, details: GenerationDetails) -> None:
        if details.known is None or details.known.looked_at is None:
            return
        since = (details.now - details.known.looked_at).total_seconds()
        end = time.monotonic() + self.pause - max(since, 0.0)
        # In short steps: a drain does not wait for a pause.
        while not self.worker.draining:
            remaining = end - time.monotonic()
            if remaining <= 0:
                return
            await asyncio.sleep(min(remaining, RECHECK_SECONDS))


@contextlib.asynccontextmanager
async def leases_kept(worker: Worker) -> AsyncIterator[None]:
    """Renew the worker's leases meanwhile: a long delivery takes longer than one lease lasts."""
    async with running([worker.keep()]):
        yield


@contextlib.asynccontextmanager
async def running(coroutines: Iterable[Coroutine[None, None, None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run the coroutines as tasks; those that still run at the end are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class OperationOutcome:
    """How a generation stands after an operation; `why` is a sentence for people.

    `failed` is final; a generation that we gave up ourselves is still `working`. The daemon does not change a
    generation that is `left`.
    """

    generation_id: str
    task_id: str | None
    word: Word
    why: str
    asset_url: str | None = None

    @property
    def settled(self) -> bool:
        """Return whether the generation has ended."""
        return self.word in ("delivered", "failed")


def outcome(details: GenerationDetails, settings: Settings) -> OperationOutcome:
    """Return how a generation stands."""
    row, known = details.generation, details.known
    reason = known.why if known else None
    if row.status in SUCCEEDED and ended(details, settings):
        lacking = reason if details.partial else None
        return OperationOutcome(row.id, row.task_id, "delivered", lacking or "", row.asset_url)
    if row.status == "failed":
        word: Word = "failed" if ended(details, settings) else "working"
        return OperationOutcome(row.id, row.task_id, word, row.error or reason or "no reason was written")
    if row.status not in (*OPEN, *SUCCEEDED):
        return OperationOutcome(row.id, row.task_id, "left", f"status {row.status} belongs to the application")
    reason = reason or "KIE was not asked yet"
    if details.held:
        return OperationOutcome(row.id, row.task_id, "working", f"another instance holds it; {reason}")
    if known is None:
        return OperationOutcome(
            row.id, row.task_id, "left", "the daemon leaves it alone: its provider or its task id is excluded"
        )
    return OperationOutcome(row.id, row.task_id, "left" if known.due_at is None else "working", reason)
