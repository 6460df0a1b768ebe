"""Turns claims into visits: coalesces wakes, claims what is due, keeps the leases, drains at the end.

One loop claims: first woken generations, at most their share, then due ones, and where a request to KIE would go
unused, the one that is due next. A thousand wakes of one generation are one visit. `max_polling` bounds the visits that
still need KIE, so that no lease runs out in a queue for a request; deliveries have slots of their own (`deliver.py`),
and no more due generations are claimed than can be delivered or wait next. These places are shared: no number of wakes
keeps all of them from due rows, nor the other way round. The daemon runs `run` and `keep`; the operations use `once`.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from reconciler.boottime import boottime
from reconciler.domain.model import Trigger
from reconciler.errors import LeaseLost, ReconcilerError, Transient
from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claim, Claims
from reconciler.postgres.claims.queues import Queue
from reconciler.postgres.ledger.ledger import ClaimedRow, Ledger
from reconciler.worker.lease import Lease
from reconciler.worker.release import BUSY_SECONDS, RELEASE_SECONDS, Releases
from reconciler.worker.visit import Visitor, VisitOutcome
from reconciler.worker.wakes import Wakes

log = structlog.get_logger()

IDLE_SECONDS = 1.0
"""Seconds until the next attempt: after a claim that failed, after a claim before the due time that found nothing, and
at most this long while the database may hold a claim of ours whose answer did not come."""

CLAIM_PAUSE = 0.01
BACKLOG_PAUSE = 0.05
"""Seconds between two claims, so that one serves several wakes; longer while overdue rows wait anyway."""

MAX_HELD = 256
"""The most generations that one process holds at once."""

Claiming = Callable[[], Coroutine[Any, Any, list[Claim]]]
Visit = Callable[[ClaimedRow, Lease], Coroutine[Any, Any, VisitOutcome | None]]
"""Visits a claimed row; None where it has changed and is to be visited again."""


@dataclass(eq=False)
class Worker:
    """Claims and visits generations in this process; `request_gap` is the seconds between two requests to KIE.

    With `draining` no more visits begin here.
    """

    claims: Claims
    ledger: Ledger
    visitor: Visitor
    metrics: Metrics
    max_polling: int
    lease_seconds: float
    sweep_seconds: float
    request_gap: float
    draining: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._wakes = Wakes(few=self.max_polling)
        self._stirred = asyncio.Event()
        self._visits: dict[UUID, tuple[Lease, asyncio.Task[Any]]] = {}
        self._polling: dict[UUID, Queue] = {}
        self._releases = Releases(self.claims, self.metrics)
        self._claiming = asyncio.Lock()
        self._early_at = 0.0
        self._beyond_at = 0.0
        self._most_woken = max(1, self.max_polling * 3 // 4)
        self._most_ended = max(1, self.max_polling // 4)

    def wake(self, generation_id: str, trigger: Trigger = Trigger.NOTIFY) -> None:
        """Visit this generation soon: a hint that is never refused and never waits."""
        self._wakes.add(generation_id, trigger)
        self._stirred.set()

    def stir(self) -> None:
        """Claim due generations now."""
        self._stirred.set()

    async def run(self) -> None:
        """Claim and visit until drained; neither an absent database nor an unexpected error ends the loop."""
        await claim_until(lambda: self.draining, self._stirred, self._claim_one_at_a_time)

    async def _claim_one_at_a_time(self) -> float:
        async with self._claiming:
            return await self._claim()

    async def _claim(self) -> float:
        """Claim as many generations as may poll and begin their visits; return the seconds until the next claim."""
        await self._releases.retry()
        await self.claims.unacknowledged.settle(list(self._visits))
        free = min(self.max_polling - len(self._polling), MAX_HELD - len(self._visits))
        held = Counter(self._polling.values())
        unused = not self._polling
        # With no place free, too: of many wakes those that are not ours are dropped, and the others become due.
        wakeable = max(min(free, self._most_woken - held[Queue.WOKEN]), 0)
        woken = await self._begin(lambda: self._claim_woken(wakeable, held))
        if free <= 0:
            return CLAIM_PAUSE if self._wakes.any(0) else self.sweep_seconds
        limit = self._due_limit(free - woken)
        overdue = await self._begin(lambda: self.claims.due(limit, held)) if limit > 0 else 0
        begun = woken + overdue
        # The due ones may be deliveries only, which leave the requests to KIE unused.
        if not begun or (unused and not woken):
            begun += await self._begin(self._claim_early)
        if begun or self._wakes.any(wakeable - woken):
            self._stirred.set()
            await asyncio.sleep(BACKLOG_PAUSE if overdue else CLAIM_PAUSE)
            return CLAIM_PAUSE
        due = await self.claims.next_due()
        soonest = self.sweep_seconds if due is None else min(due, self._early_at - time.monotonic())
        if limit <= 0:
            # Due rows are left: they wait for the end of a delivery, which stirs this loop, or for a request to KIE.
            soonest = min(soonest, self._beyond_at - time.monotonic())
        return min(max(soonest, CLAIM_PAUSE), IDLE_SECONDS if self.claims.unacknowledged.open else self.sweep_seconds)

    def _due_limit(self, free: int) -> int:
        """Return how many due generations to claim: as many as there is room to deliver, else one a request to KIE.

        A row that is claimed without room may need no delivery yet.
        """
        room = self.visitor.room
        if room > 0 or free <= 0:
            return min(free, room)
        now = time.monotonic()
        if now < self._beyond_at:
            return 0
        self._beyond_at = now + self.request_gap
        return 1

    async def _claim_woken(self, limit: int, held: Mapping[Queue, int]) -> list[Claim]:
        """Claim up to `limit` woken generations, few of them that have ended; the further ones become due."""
        wakes = self._wakes.take(limit)
        if not wakes:
            return []
        ended = max(min(limit, self._most_ended - held.get(Queue.ENDED, 0)), 0)
        try:
            result = await self.claims.take(wakes, limit=limit, ended=ended)
        except ReconcilerError:
            self._wakes.put_back(wakes)
            raise
        loop = asyncio.get_running_loop()
        for generation_id in result.busy:
            loop.call_later(BUSY_SECONDS, self.wake, generation_id, wakes.get(generation_id, Trigger.NOTIFY))
        return result.claims

    async def _claim_early(self) -> list[Claim]:
        """Claim one generation before it is due, so that the next request to KIE does not go unused."""
        if time.monotonic() < self._early_at:
            return []
        claims = await self.claims.early(1)
        self._early_at = time.monotonic() + (self.request_gap if claims else IDLE_SECONDS)
        return claims

    async def begin(self, claiming: Claiming, visit: Visit) -> None:
        """Claim, and visit each claim in this way, beside the visits that `run` begins."""
        async with self._claiming:
            await self._begin(claiming, visit)

    async def _begin(self, claiming: Claiming, visit: Visit | None = None) -> int:
        """Claim, and begin a visit of each claim; return how many were claimed.

        Visits of another way than usual ask KIE nothing, and need no place among those that do.
        """
        if self.draining:
            return 0
        # Before the claim is sent: our view of a lease must end no later than the database's.
        sent_at = boottime()
        claims = await claiming()
        if self.draining or not claims:
            await self._releases.give_back(claims, seconds=0.0)
            return 0
        try:
            for claim, claimed_row in (await self._read(claims)).items():
                if claimed_row is None:
                    await self.ledger.forget(claim)
                else:
                    self._start_visit(claimed_row, claim, sent_at, visit)
        except Exception:
            not_begun = [claim for claim in claims if claim.lease not in self._visits]
            await self._releases.give_back(not_begun, seconds=0.0)
            raise
        return len(claims)

    async def _read(self, claims: Sequence[Claim]) -> dict[Claim, ClaimedRow | None]:
        """Read claimed rows; None for a row that is gone.

        Rows are hostile: where one of them breaks the reading, each is read alone, and that one waits a minute.
        """
        try:
            rows = await self.ledger.read([claim.generation_id for claim in claims])
        except ReconcilerError:
            raise
        except Exception:
            if len(claims) > 1:
                return {claim: row for alone in claims for claim, row in (await self._read([alone])).items()}
            await self._releases.give_back_broken(claims[0])
            return {}
        return {claim: rows.get(claim.generation_id) for claim in claims}

    def _start_visit(self, claimed_row: ClaimedRow, claim: Claim, sent_at: float, visit: Visit | None) -> None:
        lease = Lease(claim, self.lease_seconds, sent_at, on_polled=partial(self._stop_polling, claim))
        if visit is None:
            self._polling[claim.lease] = claim.queue
        visiting = asyncio.create_task(self._guarded_visit(claimed_row, lease, visit or self.visitor.visit))
        self._visits[claim.lease] = (lease, visiting)

    async def _guarded_visit(self, claimed_row: ClaimedRow, lease: Lease, visit: Visit) -> None:
        """Visit; a broken visit delays only this generation: by a minute, after a lost lease or an outage by 5 s."""
        logger = log.bind(generation_id=claimed_row.row.id, task_id=claimed_row.row.task_id)
        try:
            if await visit(claimed_row, lease) is None:
                # The row has changed since it was read.
                await self._releases.give_back([lease.claim], seconds=0.0)
        except LeaseLost:
            self._mark_lost(lease)
            # The visit may have stopped by our clock alone; if the lease is still ours, others need not wait for it.
            await self._releases.give_back([lease.claim], seconds=5.0)
        except ReconcilerError as error:
            logger.warning("visit.interrupted", code=error.code, reason=str(error))
            await self._releases.give_back([lease.claim], seconds=5.0)
        except Exception:
            await self._releases.give_back_broken(lease.claim, claimed_row.row.task_id)
        finally:
            self._suspect(lease)
            lease.on_polled()
            self._visits.pop(lease.claim.lease, None)

    def _stop_polling(self, claim: Claim) -> None:
        self._polling.pop(claim.lease, None)
        self._stirred.set()

    def _mark_lost(self, lease: Lease) -> None:
        lease.lost = True
        self.metrics.leases_lost.inc()
        log.warning("lease.lost", generation_id=lease.claim.generation_id)

    def _suspect(self, lease: Lease) -> None:
        """Have the row audited where its visit went on after its lease had ended, however the visit ended."""
        if lease.remaining() <= 0:
            self._releases.suspect(lease.claim)

    async def keep(self) -> None:
        """Renew the leases that are held, until cancelled; cancel a visit whose lease is lost."""
        while True:
            await asyncio.sleep(self.lease_seconds / 3)
            leases = [lease for lease, _ in self._visits.values()]
            if not leases:
                continue
            sent_at = boottime()
            try:
                renewed = await self.claims.renew([lease.claim for lease in leases])
                for lease in leases:
                    if lease.claim.lease in renewed:
                        lease.sent_at = sent_at
                missed = [lease for lease in leases if lease.claim.lease not in renewed]
                lost = await self.claims.lost([lease.claim for lease in missed]) if missed else set()
            except ReconcilerError as error:
                log.warning("leases.not_renewed", code=error.code, count=len(leases))
                continue
            for lease, visit in [self._visits[number] for number in lost & self._visits.keys()]:
                # A visit that writes its end gives the lease back itself; where it is too late, the fence rejects it.
                if not visit.done() and not lease.ending:
                    self._mark_lost(lease)
                    visit.cancel()

    def holds(self, claim: Claim) -> bool:
        """Return whether a visit under this claim is under way."""
        return claim.lease in self._visits

    @property
    def in_hand(self) -> int:
        """Return how many generations this process holds."""
        return len(self._visits)

    async def once(self, generation_id: str, trigger: Trigger) -> VisitOutcome | None:
        """Visit one generation now; None when it is gone, not eligible, or held by another visit.

        Transient (code "draining") where no more visits begin.
        """
        sent_at = boottime()
        self._check_open()
        for claim in await self.claims.woken({generation_id: trigger}):
            try:
                claimed_row = (await self.ledger.read([claim.generation_id])).get(claim.generation_id)
                self._check_open()
            except Exception:
                await self._releases.give_back([claim], seconds=0.0)
                raise
            if claimed_row is None:
                await self.ledger.forget(claim)
                continue
            lease = Lease(claim, self.lease_seconds, sent_at)
            visit = asyncio.create_task(self.visitor.visit(claimed_row, lease))
            self._visits[claim.lease] = (lease, visit)
            try:
                return await lease.outcome(visit)
            except LeaseLost:
                lease.lost = True
                raise
            finally:
                self._suspect(lease)
                del self._visits[claim.lease]
                if visit.cancelled() or visit.exception() is not None:
                    await self._releases.give_back([claim], seconds=5.0)
        return None

    def _check_open(self) -> None:
        if self.draining:
            raise Transient("draining", code="draining")

    async def drain(self, seconds: float) -> None:
        """Claim no more, let the visits end for so many seconds, then cancel the rest and give their rows back."""
        ends = time.monotonic() + seconds
        self.draining = True
        self._stirred.set()
        # A claim under way is waited for as well: cancelled, it would leave rows that no visit holds for a whole lease.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, RELEASE_SECONDS)), self._claiming:
                pass
        visits = [visit for _, visit in self._visits.values()]
        if visits and (remaining := ends - time.monotonic()) > 0:
            await asyncio.wait(visits, timeout=remaining)
        unfinished = [(lease, visit) for lease, visit in self._visits.values() if not visit.done()]
        # Noted before the first await: a second signal can cut this drain short.
        self._releases.owe([lease.claim for lease, _ in unfinished])
        for _, visit in unfinished:
            visit.cancel()
        await asyncio.gather(*(visit for _, visit in unfinished), return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(ends - time.monotonic(), RELEASE_SECONDS)):
                await self._releases.settle(seconds=5.0)
        if unfinished or seconds > 0:
            log.info("work.drained", released=len(unfinished))


async def claim_until(over: Callable[[], bool], stirred: asyncio.Event, claim: Callable[[], Awaitable[float]]) -> None:
    """Claim until it is over, each time after the seconds that the claim before returned, or once it is stirred."""
    while not over():
        stirred.clear()
        try:
            pause = await claim()
        except ReconcilerError as error:
            log.warning("claims.failed", code=error.code, reason=str(error))
            pause = IDLE_SECONDS
        except Exception:
            log.exception("claims.broke")
            pause = IDLE_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stirred.wait()
