"""Hands generations to visits: wakes are coalesced, claims taken, leases kept alive, the rest drained.

One loop claims: first what was woken, then what is due, and where a request would else be wasted, what is due next. A
thousand wakes of one generation are one look. `asking` bounds the visits that may wait for a request, so that no lease
runs out in a queue; deliveries have slots of their own. The daemon runs `run` and `keep`; the chores use `once`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from reconciler.domain.model import Trigger
from reconciler.errors import LeaseLost, ReconcilerError, Transient
from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claim, Claims
from reconciler.postgres.ledger.ledger import ClaimedRow, Ledger
from reconciler.worker.lease import Lease
from reconciler.worker.release import BUSY, HASTE, Releases
from reconciler.worker.visit import Visitor, VisitOutcome

log = structlog.get_logger()

IDLE = 1.0
"""Seconds between two looks for rows to ask about early, where the last found none."""

BREATH = 0.01
BACKLOG_BREATH = 0.05
"""Seconds between two claims: one serves several visits, and while rows are overdue nobody waits for one of them."""

HELD = 256
"""The most generations that one process holds at once, most of them waiting for a slot to deliver."""


@dataclass(frozen=True, slots=True)
class Breadth:
    """How much one process takes on: visits that ask at once; seconds of a lease, of a sweep, between two requests."""

    asking: int
    term: float
    sweep: float
    gap: float


class Worker:
    """The generations in this process's hands."""

    def __init__(self, claims: Claims, ledger: Ledger, visits: Visitor, metrics: Metrics, breadth: Breadth) -> None:
        self._claims = claims
        self._ledger = ledger
        self._visits = visits
        self._metrics = metrics
        self._breadth = breadth
        self._wakes: dict[str, Trigger] = {}
        self._stirred = asyncio.Event()
        self._held: dict[UUID, tuple[Lease, asyncio.Task[Any]]] = {}
        self._asking: set[UUID] = set()
        self._returns = Releases(claims, metrics)
        self._draining = False
        self._looking = asyncio.Lock()
        self._early_at = 0.0

    def wake(self, generation_id: str, trigger: Trigger = Trigger.NOTIFY) -> None:
        """Look at this generation soon: a hint, never awaited, never refused."""
        self._wakes[generation_id] = trigger
        self._stirred.set()

    def stir(self) -> None:
        """Look for due generations now."""
        self._stirred.set()

    async def run(self) -> None:
        """Claim and visit until drained; a database that is away is waited for, and what breaks ends nothing."""
        while not self._draining:
            self._stirred.clear()
            try:
                async with self._looking:
                    pause = await self._look()
            except ReconcilerError as error:
                log.warning("claims.failed", code=error.code, reason=str(error))
                pause = IDLE
            except Exception:
                log.exception("claims.broke")
                pause = IDLE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stirred.wait()

    async def _look(self) -> float:
        """Claim what there is room for and begin the visits; return how many seconds nothing else needs doing."""
        await self._returns.pay()
        await self._claims.unacknowledged.settle(list(self._held))
        room = min(self._breadth.asking - len(self._asking), HELD - len(self._held))
        if room <= 0:
            return self._breadth.sweep
        # Each begins before the next is looked for: what was just woken is what somebody is waiting for.
        woken = await self._begin(lambda: self._woken(room))
        overdue = await self._begin(lambda: self._claims.due(room - woken)) if woken < room else 0
        begun = woken + overdue or await self._begin(self._early)
        if begun or self._wakes:
            self._stirred.set()
            await asyncio.sleep(BACKLOG_BREATH if overdue else BREATH)
            return BREATH
        due = await self._claims.next_due()
        soonest = self._breadth.sweep if due is None else min(due, self._early_at - time.monotonic())
        return min(max(soonest, BREATH), IDLE if self._claims.unacknowledged.open else self._breadth.sweep)

    async def _woken(self, room: int) -> list[Claim]:
        wakes = {generation_id: self._wakes.pop(generation_id) for generation_id in list(self._wakes)[:room]}
        if not wakes:
            return []
        try:
            taken = await self._claims.take(wakes)
        except ReconcilerError:
            self._wakes = wakes | self._wakes
            raise
        loop = asyncio.get_running_loop()
        for name in taken.busy:
            loop.call_later(BUSY, self.wake, name, wakes.get(name, Trigger.NOTIFY))
        return taken.claims

    async def _early(self) -> list[Claim]:
        """Claim a row before it is due, where the next request would else be wasted."""
        if time.monotonic() < self._early_at:
            return []
        claims = await self._claims.early(1)
        self._early_at = time.monotonic() + (self._breadth.gap if claims else IDLE)
        return claims

    async def _begin(self, claiming: Callable[[], Coroutine[Any, Any, list[Claim]]]) -> int:
        """Claim, and begin a visit of each; return how many were begun."""
        if self.draining:
            return 0
        # Before the claim is sent: our view of a lease must end no later than the database's.
        drawn = time.monotonic()
        claims = await claiming()
        if self._draining or not claims:
            await self._returns.give_back(claims, seconds=0.0)
            return 0
        try:
            for claim, held in (await self._read(claims)).items():
                if held is None:
                    await self._ledger.forget(claim)
                else:
                    self._visit(held, Lease(claim, self._breadth.term, drawn))
        except Exception:
            idle = [claim for claim in claims if claim.lease not in self._held]
            await self._returns.give_back(idle, seconds=0.0)
            raise
        return len(claims)

    async def _read(self, claims: Sequence[Claim]) -> dict[Claim, ClaimedRow | None]:
        """Read claimed rows, None for one that is gone.

        Rows are hostile: where one breaks the reading, each is read alone, and that one waits a minute.
        """
        try:
            held = await self._ledger.read([claim.generation_id for claim in claims])
        except ReconcilerError:
            raise
        except Exception:
            if len(claims) > 1:
                return {claim: held for one in claims for claim, held in (await self._read([one])).items()}
            await self._returns.broken(claims[0])
            return {}
        return {claim: held.get(claim.generation_id) for claim in claims}

    def _visit(self, held: ClaimedRow, lease: Lease) -> None:
        self._asking.add(lease.claim.lease)
        self._held[lease.claim.lease] = (lease, asyncio.create_task(self._guarded(held, lease)))

    async def _guarded(self, held: ClaimedRow, lease: Lease) -> None:
        """The border around a visit: what breaks in it costs this generation a minute, and nobody else anything."""
        bound = log.bind(generation_id=held.row.id, task_id=held.row.task_id)
        try:
            await self._visits.visit(held, lease, lambda: self._asked(lease))
        except LeaseLost:
            self._lost(lease)
            # By our clock alone it may still be ours: nobody else should have to wait for its end.
            await self._returns.give_back([lease.claim], seconds=5.0)
        except ReconcilerError as error:
            bound.warning("visit.interrupted", code=error.code, reason=str(error))
            await self._returns.give_back([lease.claim], seconds=5.0)
        except Exception:
            await self._returns.broken(lease.claim, held.row.task_id)
        finally:
            self._asked(lease)
            self._held.pop(lease.claim.lease, None)

    def _asked(self, lease: Lease) -> None:
        self._asking.discard(lease.claim.lease)
        self._stirred.set()

    def _lost(self, lease: Lease) -> None:
        lease.lost = True
        self._metrics.leases_lost.inc()
        log.warning("lease.lost", generation_id=lease.claim.generation_id)

    async def keep(self) -> None:
        """Prolong the leases in hand until cancelled; a visit whose lease is gone is cut short."""
        while True:
            await asyncio.sleep(self._breadth.term / 3)
            leases = [lease for lease, _ in self._held.values()]
            if not leases:
                continue
            drawn = time.monotonic()
            try:
                kept = await self._claims.renew([lease.claim for lease in leases])
                for lease in leases:
                    if lease.claim.lease in kept:
                        lease.prolong(drawn)
                missed = [lease for lease in leases if lease.claim.lease not in kept]
                lost = await self._claims.lost([lease.claim for lease in missed]) if missed else set()
            except ReconcilerError as error:
                log.warning("leases.not_renewed", code=error.code, count=len(leases))
                continue
            for lease in missed:
                if lease.claim.lease in lost and lease.claim.lease in self._held:
                    self._cut(lease)

    def _cut(self, lease: Lease) -> None:
        _, task = self._held[lease.claim.lease]
        # A visit that writes its end gives the lease back itself, and the fence refuses it where that comes too late.
        if not task.done() and not lease.ending:
            self._lost(lease)
            task.cancel()

    @property
    def in_hand(self) -> int:
        """How many generations this process holds."""
        return len(self._held)

    @property
    def draining(self) -> bool:
        """Whether nothing more is begun here."""
        return self._draining

    async def once(self, generation_id: str, trigger: Trigger) -> VisitOutcome | None:
        """Visit one generation now, for a chore; None when it is gone, not ours to move, or in another's hands.

        Transient (code "draining") where nothing more is begun.
        """
        drawn = time.monotonic()
        self._check_open()
        for claim in await self._claims.woken({generation_id: trigger}):
            try:
                held = (await self._ledger.read([claim.generation_id])).get(claim.generation_id)
                self._check_open()
            except Exception:
                await self._returns.give_back([claim], seconds=0.0)
                raise
            if held is None:
                await self._ledger.forget(claim)
                continue
            lease = Lease(claim, self._breadth.term, drawn)
            task = asyncio.create_task(self._visits.visit(held, lease))
            self._held[claim.lease] = (lease, task)
            try:
                return await lease.outcome(task)
            finally:
                del self._held[claim.lease]
                if task.cancelled() or task.exception() is not None:
                    await self._returns.give_back([lease.claim], seconds=5.0)
        return None

    def _check_open(self) -> None:
        if self._draining:
            raise Transient("draining", code="draining")

    async def drain(self, seconds: float) -> None:
        """Claim no more, let what is in hand end for so many seconds, then give the rest back."""
        ends = time.monotonic() + seconds
        self._draining = True
        self._stirred.set()
        # What is being claimed right now is in hand as well: a claim that is cut leaves rows to nobody for a lease.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, HASTE)), self._looking:
                pass
        tasks = [task for _, task in self._held.values()]
        if tasks and (left_over := ends - time.monotonic()) > 0:
            await asyncio.wait(tasks, timeout=left_over)
        left = [(lease, task) for lease, task in self._held.values() if not task.done()]
        # Kept until it is done, for a second signal may cut this drain before.
        self._returns.owe([lease.claim for lease, _ in left])
        for _, task in left:
            task.cancel()
        await asyncio.gather(*(task for _, task in left), return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(ends - time.monotonic(), HASTE)):
                await self._returns.settle(seconds=5.0)
        if left or seconds > 0:
            log.info("work.drained", released=len(left))
