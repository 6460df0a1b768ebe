"""What is done because somebody asks: sync a task, retry a generation, backfill what was never stored.

Each chore sends generations through the same visit as the daemon does and tells how each stands afterwards; where a
replica already holds one, it waits for that. Nothing is decided or written here. Called by the command line; the door
of `sync` calls `visit` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Literal

import structlog

from reconciler.domain.model import OPEN, SUCCEEDED, Observation, Trigger
from reconciler.errors import LeaseLost, Permanent, ReconcilerError, Transient
from reconciler.operations.explain import ExplainTerms, ended
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.reports.generation_details import GenerationDetails
from reconciler.postgres.reports.reports import Reports
from reconciler.worker.worker import Worker

log = structlog.get_logger()

POLL = 0.3
"""Seconds between two looks at a generation that somebody else holds."""

Word = Literal["delivered", "failed", "working", "left"]


@dataclass(frozen=True, slots=True)
class OperationOutcome:
    """How a generation stands after a chore; `why` is for people.

    `failed` is for good; our own give-up is still `working`. `left` is what the daemon does not move.
    """

    generation_id: str
    task_id: str | None
    word: Word
    why: str
    asset_url: str | None = None

    @property
    def settled(self) -> bool:
        """Whether it has come to its end."""
        return self.word in ("delivered", "failed")


@dataclass(frozen=True, slots=True)
class Operator:
    """What every chore needs: `at_once` bounds the visits, `patience` the seconds to wait for another's lease.

    `pause` is the seconds that must have passed since the last look at a row before it is visited again.
    """

    work: Worker
    reports: Reports
    reopening: Reopener
    terms: ExplainTerms
    at_once: int = 1
    patience: float = 120.0
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskState:
    """How a generation stands after a visit, None where it is gone; `seen` is what a visit of ours heard last.

    `seen` is None where there was nothing to ask or another instance asked.
    """

    case: GenerationDetails | None
    seen: Observation | None = None


async def sync(desk: Operator, task_id: str) -> tuple[OperationOutcome, ...]:
    """Visit every generation of this task now; empty when nobody knows it."""
    async with kept(desk.work):
        stands = [await visit(desk, found, Trigger.SYNC) for found in await desk.reports.find_task(task_id)]
    return tuple(outcome(stand.case, desk.terms) for stand in stands if stand.case is not None)


async def retry(desk: Operator, generation_id: str) -> OperationOutcome | None:
    """Reopen a generation and visit it now; None when nobody knows it.

    Raises Permanent where there is nothing to retry, Transient when another instance keeps holding it.
    """
    case = await desk.reports.case(generation_id)
    if case is None:
        return None
    _check_retry(case)
    async with kept(desk.work):
        if case.generation.status == "failed":
            await _reopened(desk, generation_id)
        case = (await visit(desk, generation_id, Trigger.SYNC)).case
    return None if case is None else outcome(case, desk.terms)


def _check_retry(case: GenerationDetails) -> None:
    row = case.generation
    if row.status not in (*OPEN, *SUCCEEDED, "failed"):
        told = f"{row.id} is {row.status}: that is the application's own word, and such rows are left alone"
        raise Permanent(told, code="not_ours")
    if row.task_id is None:
        raise Permanent(f"{row.id} has no task id, so there is nothing to ask KIE about", code="no_task")


async def _reopened(desk: Operator, generation_id: str) -> None:
    deadline = time.monotonic() + desk.patience
    while not await desk.reopening.reopen(generation_id):
        case = await desk.reports.case(generation_id)
        if case is None or case.generation.status != "failed":
            return
        if time.monotonic() > deadline:
            raise Transient(f"another instance keeps holding {generation_id}", code="held")
        await asyncio.sleep(POLL)


async def unhealed(reports: Reports, on_page: Callable[[int, int], None] = lambda _looked, _found: None) -> list[str]:
    """Walk the whole table and return what a backfill would deliver.

    `on_page` hears how many rows were looked at by now, and how many of them are to be delivered.
    """
    found: list[str] = []
    looked, after = 0, None
    while True:
        page = await reports.unhealed(after=after)
        found += page.found
        looked += page.looked
        on_page(looked, len(found))
        if page.upto is None:
            return found
        after = page.upto


async def backfill(
    desk: Operator, *, on_page: Callable[[int, int], None], on_outcome: Callable[[OperationOutcome], None]
) -> tuple[OperationOutcome, ...]:
    """Deliver every success without an asset; what cannot be healed is told and does not stop the others.

    Raises Transient when the database is away: run it again, and it goes on with what is left.
    """
    outcomes: list[OperationOutcome] = []
    queue = iter(await unhealed(desk.reports, on_page))

    async def worker() -> None:
        for generation_id in queue:
            told = await _healed(desk, generation_id)
            outcomes.append(told)
            on_outcome(told)

    async with kept(desk.work), _together(worker() for _ in range(desk.at_once)) as workers:
        await asyncio.gather(*workers)
    return tuple(outcomes)


async def _healed(desk: Operator, generation_id: str) -> OperationOutcome:
    """The border around a visit: what breaks in it costs this one generation its healing, and nobody else anything."""
    try:
        case = (await visit(desk, generation_id, Trigger.BACKFILL)).case
    except ReconcilerError as error:
        if error.code == "database_away":
            raise
        return OperationOutcome(generation_id, None, "working", str(error))
    except Exception as error:
        log.exception("visit.broke", generation_id=generation_id)
        return OperationOutcome(generation_id, None, "working", f"the visit broke: {type(error).__name__}")
    if case is None:
        return OperationOutcome(generation_id, None, "left", "the application deleted the row")
    return outcome(case, desk.terms)


def outcome(case: GenerationDetails, terms: ExplainTerms) -> OperationOutcome:
    """Return how a generation stands."""
    row, known = case.generation, case.known
    if row.status in SUCCEEDED and ended(case, terms):
        return OperationOutcome(row.id, row.task_id, "delivered", "", row.asset_url)
    if row.status == "failed":
        word: Word = "failed" if ended(case, terms) else "working"
        return OperationOutcome(
            row.id, row.task_id, word, row.error or (known and known.why) or "no reason was written"
        )
    if row.status not in (*OPEN, *SUCCEEDED):
        return OperationOutcome(row.id, row.task_id, "left", f"status {row.status} is the application's own")
    why = (known and known.why) or "not asked yet"
    if case.held:
        return OperationOutcome(row.id, row.task_id, "working", f"another instance holds it; {why}")
    if known is None:
        return OperationOutcome(row.id, row.task_id, "left", "not one of ours: its provider or its task id says so")
    return OperationOutcome(row.id, row.task_id, "left" if known.due_at is None else "working", why)


async def visit(desk: Operator, generation_id: str, trigger: Trigger) -> TaskState:
    """Visit one generation now, or wait until whoever holds it has.

    What has come to its end is not visited. The caller keeps the leases alive. Raises Transient when the database is
    away or the process drains.
    """
    deadline = time.monotonic() + desk.patience
    before = await desk.reports.case(generation_id)
    if before is None or ended(before, desk.terms):
        return TaskState(before)
    await _paused(desk, before)
    seen: Observation | None = None
    try:
        visited = await desk.work.once(generation_id, trigger)
        if visited is not None and visited.row.polls == 0:
            # In a burst a first visit only takes its place in the queue; the second one asks.
            visited = await desk.work.once(generation_id, trigger)
        seen = visited.seen if visited is not None else None
    except LeaseLost:
        log.info("lease.lost", generation_id=generation_id)
    while True:
        case = await desk.reports.case(generation_id)
        if case is None or not case.held or time.monotonic() > deadline:
            return TaskState(case, seen)
        await asyncio.sleep(POLL)
        if desk.work.draining:
            return TaskState(case, seen)


async def _paused(desk: Operator, case: GenerationDetails) -> None:
    if case.known is None or case.known.looked_at is None:
        return
    since = (case.now - case.known.looked_at).total_seconds()
    until = time.monotonic() + desk.pause - max(since, 0.0)
    # In short steps, because a drain does not wait for a pause.
    while not desk.work.draining:
        left = until - time.monotonic()
        if left <= 0:
            return
        await asyncio.sleep(min(left, POLL))


@contextlib.asynccontextmanager
async def kept(work: Worker) -> AsyncIterator[None]:
    """Keep the leases alive meanwhile: a long delivery outlives its first term."""
    async with _together(iter([work.keep()])):
        yield


@contextlib.asynccontextmanager
async def _together(parts: Iterator[Coroutine[None, None, None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run these as tasks, and leave none behind."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
