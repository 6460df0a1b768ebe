"""Timed passes: the sweep, presence and lead, announcing, the snapshot, the pace, what is asked outside, upkeep.

APScheduler keeps the times; each round is one small method and none depends on another having run. A round that breaks
is logged and comes again. The sweep is what makes every notification dispensable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reconciler.domain.findings import FindingThresholds, Snapshot, findings
from reconciler.errors import ReconcilerError
from reconciler.malloc import give_back
from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claims
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.reports.reports import Reports
from reconciler.postgres.retention import Retention
from reconciler.webhooks.sender import WebhookSender
from reconciler.worker.periodic.probes import Probes
from reconciler.worker.periodic.verification import Verification
from reconciler.worker.prune import delete_failed
from reconciler.worker.visit import CurrentPolicy
from reconciler.worker.worker import Worker

log = structlog.get_logger()

Round = Callable[[], Coroutine[Any, Any, None]]

RETENTION_BATCHES = 40
"""Batches of old failures that one round deletes: a backlog of a million takes two days and disturbs nobody."""

CLOCK_SET = 2.0
"""Seconds by which the wall clock moves against the monotonic one in a second when somebody has set it."""


@dataclass(frozen=True, slots=True)
class Every:
    """Seconds between two runs of each round."""

    sweep: float
    presence: float
    snapshot: float = 15.0
    pace: float = 30.0
    credit: float = 300.0
    bucket: float = 60.0
    audit: float = 15.0
    tidy: float = 15.0
    upkeep: float = 3600.0


@dataclass(frozen=True, slots=True)
class Bearings:
    """What the rounds go by: days until failed rows are deleted (0 = never), from where on a figure is amiss."""

    retention_days: int
    bounds: FindingThresholds


@dataclass(frozen=True, slots=True)
class Eyes:
    """What the rounds look through; `behind` counts missing migrations, `pooled` tells of a transaction pooler.

    `doing` tells what is in hand. Without `announcer` nobody is told of events.
    """

    claims: Claims
    presence: Heartbeat
    tempo: PollStats
    reports: Reports
    upkeep: Retention
    outside: Probes
    audit: Verification
    behind: Callable[[], Coroutine[Any, Any, int]]
    pooled: Callable[[], bool]
    doing: Callable[[], Mapping[str, object]]
    announcer: WebhookSender | None = None


class PeriodicTasks:
    """The timed passes of one instance; `pulse` is the monotonic time when the loop last turned.

    `swept` says whether a sweep has ended, `drawn` is the last snapshot where we lead.
    """

    def __init__(
        self, eyes: Eyes, work: Worker, metrics: Metrics, *, every: Every, bearings: Bearings, current: CurrentPolicy
    ) -> None:
        self._eyes = eyes
        self._work = work
        self._metrics = metrics
        self._every = every
        self._bearings = bearings
        self._current = current
        self.pulse = time.monotonic()
        self.swept = False
        self.drawn: Snapshot | None = None
        self._leads_until = 0.0
        self._swept_at = time.monotonic()
        self._canary_at = time.monotonic()
        self._listening = self._watched = False
        # The library's default drops a run that is a second late; a late sweep is better than none.
        late = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        self._scheduler = AsyncIOScheduler(job_defaults=late)
        self._wall = _wall()
        self._watching: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin all rounds: each at once and then at its interval, the leader's when it is known who leads."""
        every = self._every
        at_once: dict[Round, float] = {self.beat: 1.0, self.make_up: 1.0, self.sweep: every.sweep}
        at_once |= {self.attend: every.presence, self.show: 1.0}
        at_once |= {self.audit: every.audit, self.tidy: every.tidy}
        if self._eyes.announcer is not None:
            at_once[self._eyes.announcer.look] = 1.0
        leaders: dict[Round, float] = {
            self.snapshot: every.snapshot,
            self.pace: every.pace,
            self.credit: every.credit,
            self.bucket: every.bucket,
            self.upkeep: every.upkeep,
        }
        now = datetime.now(UTC)
        for run, seconds in (at_once | leaders).items():
            first = now + timedelta(seconds=1) if run in leaders else now
            self._scheduler.add_job(
                partial(self._guarded, run), "interval", seconds=seconds, id=run.__name__, next_run_time=first
            )
        self._scheduler.start()
        self._watch()

    def _watch(self) -> None:
        """Begin all rounds anew where the wall clock was set: the library would wait for the time that it had named."""
        wall = _wall()
        if abs(wall - self._wall) > CLOCK_SET:
            log.warning("clock.set", seconds=round(wall - self._wall))
            for run in self._scheduler.get_jobs():
                run.modify(next_run_time=datetime.now(UTC))
        self._wall = wall
        self._watching = asyncio.get_running_loop().call_later(1.0, self._watch)

    def stop(self) -> None:
        """Begin no round any more; one that runs is cut."""
        if self._watching is not None:
            self._watching.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def _guarded(self, run: Round) -> None:
        """The border around a round: what breaks in it is told, and comes again at its time."""
        name = run.__name__
        try:
            await run()
        except ReconcilerError as error:
            log.warning("round.failed", round=name, code=error.code, reason=str(error))
        except Exception:
            log.exception("round.broke", round=name)

    async def beat(self) -> None:
        """Show that the loop turns; it waits for nothing, or a database that is away would stop the pulse."""
        self.pulse = time.monotonic()

    async def make_up(self) -> None:
        """Make up for a deaf listener: the sweep comes thrice as often."""
        if not self._listening and time.monotonic() - self._swept_at > self._every.sweep / 3:
            await self.sweep()

    async def sweep(self) -> None:
        """Find what no notification told, and look for what is due."""
        found = await self._eyes.claims.discover()
        if found:
            log.info("sweep.found", generations=found)
        self._work.stir()
        self.swept = True
        self._swept_at = time.monotonic()
        self._metrics.last_sweep.set(time.time())

    async def attend(self) -> None:
        """Tell the others that we live, and take the lead where nobody has it."""
        asked_at = time.monotonic()
        await self._present()
        leads = await self._eyes.presence.lead()
        # Trusted for less than the term in the database: a slow answer must not make two leaders.
        self._leads_until = asked_at + self._every.presence * 2 if leads else 0.0
        self._metrics.is_leader.set(leads)

    async def show(self) -> None:
        """Tell what is in hand each second while somebody watches it move."""
        if self._watched:
            await self._present()

    async def _present(self) -> None:
        # Where it breaks nobody watches any more, until the next presence says otherwise.
        self._watched = False
        self._watched = await self._eyes.presence.beat(self._eyes.doing())

    def _leads(self) -> bool:
        return time.monotonic() < self._leads_until

    async def snapshot(self) -> None:
        """Draw the table-wide figures and say what is amiss; without an answer nothing is drawn."""
        snapshot = None
        try:
            snapshot = await self._look() if self._leads() else None
        finally:
            self.drawn = snapshot
            if snapshot is None:
                # Old figures that stay would say that all is well, or never end an alert.
                self._metrics.forget()
        if snapshot is None:
            return
        found = findings(snapshot, self._bearings.bounds)
        self._metrics.draw(snapshot, found)
        for finding in found:
            log.warning("finding.open", finding=finding.name, count=finding.count, says=finding.says, do=finding.do)

    async def _look(self) -> Snapshot:
        return replace(
            await self._eyes.reports.snapshot(),
            listening=self._listening,
            canary_age=time.monotonic() - self._canary_at,
            sweep_age=time.monotonic() - self._swept_at,
            schema_behind=await self._eyes.behind(),
            transaction_pooler=self._eyes.pooled(),
            keys_rejected=self._eyes.outside.keys_rejected,
            keys_unpaid=self._eyes.outside.keys_unpaid,
            bucket_closed=self._eyes.outside.bucket_closed,
        )

    async def pace(self) -> None:
        """Learn how long tasks take where we lead, and go by what was learned."""
        learned = await (self._eyes.tempo.learn() if self._leads() else self._eyes.tempo.recall())
        if learned is not None:
            self._current.limits = replace(
                self._current.limits, duration_models=learned.curves, poll_price=learned.poll_price
            )

    async def credit(self) -> None:
        """Ask KIE about the keys, where we lead."""
        if self._leads():
            await self._eyes.outside.credit()

    async def bucket(self) -> None:
        """Ask storage about the bucket, where we lead."""
        if self._leads():
            await self._eyes.outside.bucket()

    async def audit(self) -> None:
        """Compare a few of the deliveries whose audit is due with storage."""
        await self._eyes.audit.round()

    async def tidy(self) -> None:
        """Give back the memory that deliveries have left."""
        give_back()

    async def upkeep(self) -> None:
        """Delete what is too old, a batch at a time."""
        if not self._leads():
            return
        await self._eyes.tempo.trim()
        await self._eyes.upkeep.traces()
        await self._eyes.upkeep.enrol()
        await self._eyes.upkeep.deserted()
        if self._bearings.retention_days:
            older = timedelta(days=self._bearings.retention_days)
            deleted = await delete_failed(self._eyes.upkeep, older, batches=RETENTION_BATCHES)
            if deleted:
                log.info("failed.deleted", generations=deleted, older_than_days=self._bearings.retention_days)

    def heard(self, seconds: float | None) -> None:
        """Take note of a canary that came back after so many seconds, None when it did not."""
        self._listening = seconds is not None
        if self._listening:
            self._canary_at = time.monotonic()
        self._metrics.heard_canary(seconds, time.time())

    def event(self) -> None:
        """Take note of an event in the outbox: it is told without waiting for the next round."""
        if self._eyes.announcer is not None:
            self._eyes.announcer.stir()

    def gap(self) -> None:
        """Hearing begins again: whatever was said meanwhile is found by a sweep now."""
        # A run of its own: the sweep that may be under way began before we heard anything.
        self._scheduler.add_job(partial(self._guarded, self.sweep), id="gap", replace_existing=True)


def _wall() -> float:
    return time.time() - time.monotonic()
