"""One pass over one claimed generation, from claim to rest: gather, decide, apply.

The loop asks the core what to do and does exactly that; it holds no opinion of its own. Every way of waking ends here.
Called by `work` for the daemon and by the chores for one row at a time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

import structlog

from reconciler.domain.absorb import absorb
from reconciler.domain.callback_trust import may_trust, trusted_result
from reconciler.domain.decide import decide
from reconciler.domain.eligibility import is_repair
from reconciler.domain.model import (
    Asset,
    AttachTask,
    CallbackResult,
    Decision,
    Deliver,
    Done,
    Fail,
    Finish,
    IdentifyTask,
    NotPolled,
    Observation,
    Policy,
    Poll,
    Ready,
    Reschedule,
    Row,
    Stored,
    Trigger,
    Unreachable,
)
from reconciler.domain.object_keys import TYPES
from reconciler.domain.write_rejected import retry_rejected_write
from reconciler.errors import Permanent, Transient
from reconciler.kie.dialects import callback
from reconciler.metrics import Metrics
from reconciler.postgres.ledger.ledger import ClaimedRow, StoredResults
from reconciler.postgres.rate_limit import RateLimit
from reconciler.worker.deliver import Backends, Deliverer
from reconciler.worker.lease import Lease
from reconciler.worker.poll import Poller
from reconciler.worker.route import RingKey

log = structlog.get_logger()

REREADS = 3
"""How often a row that moves under us is read again before it is left to the next visit."""


@dataclass(frozen=True, slots=True)
class VisitOutcome:
    """How a visit ended: the last decision, the row as it then was, what was last seen, and the event it wrote."""

    decision: Decision
    row: Row
    seen: Observation
    at: datetime
    event: str | None = None


@dataclass(slots=True)
class CurrentPolicy:
    """The limits of the moment: the rounds write them, the visits read them."""

    limits: Policy


class Visitor:
    """Visits generations for one instance."""

    def __init__(
        self,
        ways: Backends,
        deliveries: Deliverer,
        budget: RateLimit,
        *,
        keys: Sequence[RingKey],
        current: CurrentPolicy,
        metrics: Metrics,
    ) -> None:
        self._ways = ways
        self._deliveries = deliveries
        self._asking = Poller(ways.kie, budget, keys, metrics, ways.tracing)
        self._current = current
        self._metrics = metrics

    async def visit(self, held: ClaimedRow, lease: Lease, asked: Callable[[], None] = lambda: None) -> VisitOutcome:
        """Visit one claimed generation until it rests; `asked` is called once no more requests to KIE are needed.

        Raises LeaseLost when another instance has taken over, Transient when the database is away.
        """
        claim, row = lease.claim, held.row
        tracing = self._ways.tracing
        with tracing.visit(row.id, claim.traceparent, task_id=row.task_id, trigger=claim.trigger.value) as step:
            visited = await self._visited(held, lease, asked)
            step.note(decision=visited.decision.word)
        return visited

    async def _visited(self, held: ClaimedRow, lease: Lease, asked: Callable[[], None]) -> VisitOutcome:
        began = time.monotonic()
        for _ in range(REREADS):
            visited = await self._pass(held, lease, asked)
            if visited is not None:
                self._tell(visited, lease, time.monotonic() - began)
                return visited
            again = await self._ways.ledger.read([lease.claim.generation_id])
            if lease.claim.generation_id not in again:
                await self._ways.ledger.forget(lease.claim)
                return VisitOutcome(Done("the application deleted the row"), held.row, NotPolled(), held.now)
            held = again[lease.claim.generation_id]
        raise Transient("the row keeps moving under us", code="row_moving")

    async def _pass(self, held: ClaimedRow, lease: Lease, asked: Callable[[], None]) -> VisitOutcome | None:
        """Go once from silence to an end; None when the application's row has moved meanwhile, or got its task."""
        row = held.row
        seen: Observation = NotPolled()
        began = time.monotonic()
        while True:
            now = held.now + timedelta(seconds=time.monotonic() - began)
            row = absorb(row, seen, now)
            decision = decide(row, seen, now, self._limits_for(row, lease.claim.trigger))
            match decision:
                case Poll():
                    row, seen = await self._ask(row)
                case IdentifyTask():
                    row, seen = await self._asking.identify(row)
                case Deliver():
                    asked()
                    self._saw(row, seen, lease.claim.trigger, now)
                    seen = await self._deliveries.deliver(row, lease)
                case AttachTask() | Finish() | Fail() | Reschedule() | Done():
                    lease.ending = True
                    ended = await self._end(VisitOutcome(decision, row, seen, now), lease)
                    lease.ending = ended is not None
                    return ended
                case _:
                    assert_never(decision)

    async def _ask(self, row: Row) -> tuple[Row, Observation]:
        row, seen = await self._asking.ask(row)
        keys = self._current.limits.key_count
        if not isinstance(seen, Unreachable) or not may_trust(row, seen, keys):
            return row, seen
        said = await self._ways.inbox.said(row.task_id or "")
        told = trusted_result(row, seen, [callback.read(body) for body in said], keys)
        if isinstance(told, CallbackResult):
            bound = log.bind(generation_id=row.id, task_id=row.task_id)
            bound.warning("callback.believed", addresses=len(told.ready.sources), unheard=seen.reason)
        return row, told

    async def _end(self, visited: VisitOutcome, lease: Lease) -> VisitOutcome | None:
        """Write the decision down; None when the visit begins again with the row as it then is."""
        try:
            return await self._written(visited, lease)
        except Permanent as error:
            return await self._rest_behind(visited, lease, error)

    async def _written(self, visited: VisitOutcome, lease: Lease) -> VisitOutcome | None:
        ledger, claim, row = self._ways.ledger, lease.claim, visited.row
        match visited.decision:
            case AttachTask(task_id):
                if await ledger.adopt(row, claim, task_id):
                    log.info("generation.adopted", generation_id=row.id, task_id=task_id)
                return None
            case Finish():
                write = ledger.repaired if is_repair(row) else ledger.finish
                event = await write(row, claim, self._delivered(row, visited.seen))
                return None if event is None else replace(visited, event=event)
            case Fail() as decision:
                await ledger.note(row, claim)
                event = await ledger.fail(row, claim, decision)
                return None if event is None else replace(visited, event=event)
            case Reschedule() as decision:
                await ledger.rest(row, claim, decision)
            case Done(why, lost=True):
                return replace(visited, event=await ledger.lose(row, claim, why))
            case Done() as decision:
                await ledger.leave(row, claim, decision.reason)
        return visited

    def _delivered(self, row: Row, seen: Observation) -> StoredResults:
        paths = [asset.path for asset in row.assets[: len(row.sources)]]
        return StoredResults([self._ways.store.address(path) for path in paths], paths, _unwritten(seen))

    async def _rest_behind(self, visited: VisitOutcome, lease: Lease, error: Permanent) -> VisitOutcome:
        """Wait for somebody to mend what refuses our write; what is stored is not transferred again."""
        ledger, claim = self._ways.ledger, lease.claim
        if (receipt := _unwritten(visited.seen)) is not None:
            await ledger.stored(visited.row, claim, receipt)
        row, rest = retry_rejected_write(
            visited.row, visited.decision, visited.at, reason=str(error), finding=error.code
        )
        await ledger.rest(row, claim, rest)
        return replace(visited, row=row, decision=rest)

    def _limits_for(self, row: Row, trigger: Trigger) -> Policy:
        # Somebody asked for this row, so it does not wait for a request that nobody else wants.
        asked = trigger in {Trigger.CALLBACK, Trigger.SYNC, Trigger.BACKFILL}
        first = row.polls == 0 and row.task_id is not None and not asked
        spare = not first or self._asking.spare(row)
        return replace(self._current.limits, spare_request=spare, jitter=random.random())

    def _saw(self, row: Row, seen: Observation, trigger: Trigger, now: datetime) -> None:
        # What is repaired was seen long ago.
        if isinstance(seen, Ready) and seen.completed_at is not None and not is_repair(row):
            self._metrics.seen(trigger, now - seen.completed_at, generation_id=row.id)

    def _tell(self, visited: VisitOutcome, lease: Lease, seconds: float) -> None:
        """One canonical line and the figures of a visit."""
        row, decision, trigger = visited.row, visited.decision, lease.claim.trigger
        bound = log.bind(
            generation_id=row.id, task_id=row.task_id, trigger=trigger.value, model=row.model, took=round(seconds, 3)
        )
        # What we gave up ourselves may still end otherwise, what is repaired has ended: a trace has one root.
        delivered = isinstance(decision, Finish) and visited.event != "repaired"
        if delivered or (isinstance(decision, Fail) and decision.recheck_at is None):
            outcome = "delivered" if delivered else "failed"
            self._ways.tracing.ended(row.id, lease.claim.traceparent, row.created_at, model=row.model, outcome=outcome)
        match decision:
            case Finish() if visited.event == "repaired":
                self._metrics.audits.labels("repaired").inc()
                bound.info("generation.repaired", assets=len(row.sources))
            case Finish():
                self._metrics.ended("delivered", trigger)
                since = visited.at - row.completed_at if row.completed_at else None
                kind, _ = TYPES[row.assets[0].mime]
                self._metrics.delivered(kind, visited.at - row.created_at, since, generation_id=row.id)
                size = sum(asset.size for asset in row.assets)
                age = round((visited.at - row.created_at).total_seconds() * 1000)
                bound.info(
                    "generation.delivered", assets=len(row.sources), bytes=size, ms=age, event_kind=visited.event
                )
            case Fail():
                gave_up = decision.recheck_at is not None
                self._metrics.ended("gave_up" if gave_up else "failed", trigger)
                bound.warning("generation.gave_up" if gave_up else "generation.failed", reason=decision.reason)
            case Reschedule():
                bound.debug("generation.rested", why=decision.reason, until=decision.due_at.isoformat())
            case Done(lost=True):
                self._metrics.audits.labels("lost").inc()
                bound.error("generation.lost", why=decision.reason)
            case Done():
                bound.info("generation.left", why=decision.reason)


def _unwritten(seen: Observation) -> Asset | None:
    """The asset that is stored and whose receipt is to be written beside the success."""
    return seen.unwritten if isinstance(seen, Stored) else None
