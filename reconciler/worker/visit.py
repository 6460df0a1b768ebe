"""One visit: a claimed generation, from its claim until it rests. Gather, decide, apply.

`Visitor` asks `domain.decide` what to do and does it, until the decision ends the visit; it decides nothing itself.
Every trigger leads here, through `Worker`. Polling is in `poll.py`, the transfer of results in `deliver.py`, the log
line and the figures of a visit in `visit_sinks.py`.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, assert_never

import structlog

from reconciler.boottime import boottime
from reconciler.domain.absorb import absorb
from reconciler.domain.decide import decide, retry_rejected_write
from reconciler.domain.ended_rows import is_extension, is_overwritten, is_repair, mended_preview, with_heal
from reconciler.domain.locked_write import repeated, wait_for_lock
from reconciler.domain.model import (
    Asset,
    AttachTask,
    Decision,
    Deliver,
    Done,
    DurationModel,
    Fail,
    Finish,
    IdentifyTask,
    Policy,
    Poll,
    Reschedule,
    Row,
    Trigger,
)
from reconciler.domain.observations import WORDS, DeliveryPostponed, NotPolled, Observation, Ready, Stored
from reconciler.errors import Locked, Permanent, TableChanged, Transient
from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claim
from reconciler.postgres.clock import DatabaseClock
from reconciler.postgres.ledger.ledger import ClaimedRow, Ledger, StoredResults
from reconciler.tracing import Tracing
from reconciler.worker.deliver import Deliverer
from reconciler.worker.lease import Lease
from reconciler.worker.poll import Poller

log = structlog.get_logger()

MAX_ATTEMPTS = 3
"""How often a visit begins again with a row that changes under it, before the next visit takes over."""


@dataclass(frozen=True, slots=True)
class VisitOutcome:
    """How a visit ended: the last decision, the row as it then was, the last observation, the event written.

    `at` is the database's time of the decision, `seconds` the length of the visit.
    """

    claim: Claim
    decision: Decision
    row: Row
    observation: Observation
    at: datetime
    event: str | None = None
    seconds: float = 0.0

    @property
    def end(self) -> Literal["delivered", "repaired", "extended", "failed", "gave_up", "lost"] | None:
        """Return how the generation ended in this visit, None where it did not."""
        match self.decision:
            case Finish():
                match self.event:
                    case "repaired" | "extended" as changed:
                        return changed
                    case _:
                        return "delivered"
            case Fail(recheck_at=recheck_at):
                return "failed" if recheck_at is None else "gave_up"
            case Done(lost=True):
                return "lost"
        return None


VisitSink = Callable[[VisitOutcome], None]
"""Told of every visit that has ended; see `visit_sinks.py`."""


@dataclass(slots=True)
class CurrentPolicy:
    """The policy of the moment; the poll statistics change it between visits."""

    limits: Policy

    def learn(self, curves: Mapping[str, DurationModel], theta: float) -> None:
        """Poll by these durations of models and this price of a request from now on."""
        self.limits = replace(self.limits, duration_models=curves, poll_price=theta)

    def draw(self, clock: DatabaseClock, *, spare: bool) -> Policy:
        """Return the policy of one decision, with what is known of the clock, and a fresh jitter."""
        return replace(
            self.limits,
            spare_request=spare,
            clock_trusted=clock.trusted,
            clock_stepped_at=clock.stepped_at,
            jitter=random.random(),
        )


@dataclass(eq=False)
class Visitor:
    """Visits generations for one instance; every sink is told how each visit ended."""

    ledger: Ledger
    poller: Poller
    deliverer: Deliverer
    policy: CurrentPolicy
    metrics: Metrics
    tracing: Tracing
    sinks: Sequence[VisitSink]

    @property
    def room(self) -> int:
        """Return how many more rows can be delivered, or wait for it as the next ones."""
        return self.deliverer.slots.room

    async def visit(self, claimed_row: ClaimedRow, lease: Lease) -> VisitOutcome:
        """Visit one claimed generation until it rests.

        Raises LeaseLost when another instance has taken over, Transient when the database is away or the row keeps
        changing.
        """
        claim, row = lease.claim, claimed_row.row
        with self.tracing.visit(row.id, claim.traceparent, task_id=row.task_id, trigger=claim.trigger.value) as span:
            began = time.monotonic()
            for _ in range(MAX_ATTEMPTS):
                outcome = await self._pass(claimed_row, lease)
                if outcome is not None:
                    outcome = replace(outcome, seconds=time.monotonic() - began)
                    for sink in self.sinks:
                        sink(outcome)
                    break
                rows = await self.ledger.read([claim.generation_id])
                if claim.generation_id not in rows:
                    await self.ledger.forget(claim)
                    gone = Done("the application deleted the row")
                    outcome = VisitOutcome(claim, gone, claimed_row.row, NotPolled(), claimed_row.now)
                    break
                claimed_row = rows[claim.generation_id]
            else:
                raise Transient("the row keeps changing during the visit", code="row_moving")
            span.note(decision=WORDS[type(outcome.decision)])
        return outcome

    async def write_again(self, claimed_row: ClaimedRow, lease: Lease) -> VisitOutcome | None:
        """Try a write that waits for a lock once more, without a poll or a transfer; None where the row has changed.

        Then nothing was written, and the row is to be visited. Raises what `visit` raises.
        """
        claim, row = lease.claim, claimed_row.row
        decision = repeated(row)
        if decision is None:
            return None
        with self.tracing.visit(row.id, claim.traceparent, task_id=row.task_id, trigger=claim.trigger.value) as span:
            began = time.monotonic()
            outcome = await self._end(VisitOutcome(claim, decision, row, NotPolled(), claimed_row.now), lease)
            if outcome is not None:
                outcome = replace(outcome, seconds=time.monotonic() - began)
                for sink in self.sinks:
                    sink(outcome)
            span.note(decision=WORDS[type(outcome.decision if outcome else decision)])
        return outcome

    async def _pass(self, claimed_row: ClaimedRow, lease: Lease) -> VisitOutcome | None:
        """Poll and deliver as decided until a decision ends the visit; None where the row must be read again."""
        row, trigger = claimed_row.row, lease.claim.trigger
        observation: Observation = NotPolled()
        began = boottime()
        while True:
            now = claimed_row.now + timedelta(seconds=boottime() - began)
            row = absorb(row, observation, now)
            policy = self.policy.draw(self.ledger.clock, spare=self._has_spare_request(row, trigger))
            decision = decide(row, observation, now, policy)
            match decision:
                case Poll() if (postponed := self._postponed(row)) is not None:
                    observation = postponed
                case Poll():
                    row, observation = await self.poller.ask(row, now, lease.on_polled)
                case IdentifyTask():
                    row, observation = await self.poller.identify(row)
                case Deliver():
                    lease.on_polled()
                    # A repair polls a task that completed long ago, which is no lag of ours.
                    if isinstance(observation, Ready) and observation.completed_at is not None and not is_repair(row):
                        self.metrics.seen(trigger, now - observation.completed_at, generation_id=row.id)
                    observation = await self.deliverer.deliver(row, lease)
                case AttachTask() | Finish() | Fail() | Reschedule() | Done():
                    return await self._end(VisitOutcome(lease.claim, decision, row, observation, now), lease)
                case _:
                    assert_never(decision)

    async def _end(self, outcome: VisitOutcome, lease: Lease) -> VisitOutcome | None:
        """Write the last decision down; None where the row has changed meanwhile, or has just got its task."""
        ledger, claim, row = self.ledger, lease.claim, outcome.row
        event: str | None = None
        again = False
        lease.ending = True
        try:
            match outcome.decision:
                case AttachTask(task_id):
                    if await ledger.adopt(row, claim, task_id):
                        log.info("generation.adopted", generation_id=row.id, task_id=task_id)
                    again = True
                case Finish(recheck_at):
                    results = self.deliverer.results(row, _unwritten(outcome.observation), recheck_at)
                    preview = mended_preview(row, self.policy.limits.address_rules)
                    results = replace(results, former_preview=preview)
                    event = await self._write_success(row, claim, results, outcome.at)
                    again = event is None
                case Fail() as decision:
                    await ledger.note(row, claim)
                    event = await ledger.fail(row, claim, decision)
                    again = event is None
                case Reschedule() as decision:
                    await ledger.rest(row, claim, decision, outcome.at)
                case Done(reason, lost=True):
                    event = await ledger.lose(row, claim, reason)
                case Done(reason):
                    await ledger.leave(row, claim, reason)
        except Locked as error:
            return await self._rest_locked(outcome, error)
        except (Permanent, TableChanged) as error:
            return await self._rest_rejected(outcome, error)
        lease.ending = not again
        return None if again else replace(outcome, event=event)

    async def _write_success(self, row: Row, claim: Claim, results: StoredResults, now: datetime) -> str | None:
        if is_overwritten(row, self.policy.limits.address_rules):
            return await self.ledger.repair(with_heal(row, now), claim, results)
        if is_repair(row):
            return await self.ledger.repair(row, claim, results)
        if is_extension(row):
            return await self.ledger.extend(row, claim, results)
        return await self.ledger.finish(row, claim, results)

    async def _rest_rejected(self, outcome: VisitOutcome, error: Permanent | TableChanged) -> VisitOutcome:
        """Let the row rest until the table or hook that rejects our write is fixed; stored results stay stored.

        It rests for no time where the table has been read anew since the visit began.
        """
        if (receipt := _unwritten(outcome.observation)) is not None:
            await self.ledger.stored(outcome.row, outcome.claim, receipt)
        row, rest = retry_rejected_write(
            outcome.row, outcome.decision, outcome.at, reason=str(error), finding=error.code
        )
        if self.ledger.is_outdated(outcome.claim):
            rest = replace(rest, due_at=outcome.at, earliest=outcome.at)
        await self.ledger.rest(row, outcome.claim, rest, outcome.at)
        return replace(outcome, row=row, decision=rest)

    async def _rest_locked(self, outcome: VisitOutcome, error: Locked) -> VisitOutcome:
        """Let the row rest until the lock is tried again; stored results stay stored, and nothing has failed."""
        decision = outcome.decision
        assert isinstance(decision, AttachTask | Finish | Fail | Reschedule)
        if (receipt := _unwritten(outcome.observation)) is not None:
            await self.ledger.stored(outcome.row, outcome.claim, receipt)
        rest = wait_for_lock(outcome.row, decision, outcome.at, reason=str(error))
        log.warning("row.locked", generation_id=outcome.row.id, task_id=outcome.row.task_id, reason=str(error))
        await self.ledger.rest(outcome.row, outcome.claim, rest, outcome.at)
        return replace(outcome, decision=rest)

    def _postponed(self, row: Row) -> DeliveryPostponed | None:
        """Return that new addresses would not help a row whose known ones lie on a silent host, else None."""
        if self.policy.limits.observe or row.stale or not row.failures:
            return None
        return self.deliverer.postponed(row)

    def _has_spare_request(self, row: Row, trigger: Trigger) -> bool:
        """Return whether a poll could be sent at once; one that a person or a callback asked for never waits."""
        requested = trigger in {Trigger.CALLBACK, Trigger.SYNC, Trigger.BACKFILL}
        return requested or row.task_id is None or self.poller.spare(row)


def _unwritten(observation: Observation) -> Asset | None:
    """Return the stored asset whose receipt is written with the success, None where all receipts are written."""
    return observation.unwritten if isinstance(observation, Stored) else None
