"""Finds every generation that no notification announced; this is why every notification may be lost.

A listener that hears nothing makes the sweep run three times as often. When listening starts anew, the daemon runs a
sweep at once (`Scheduler.run_beside`).
"""

import time
from dataclasses import dataclass, field

import structlog

from reconciler.metrics import Metrics
from reconciler.postgres.claims.claims import Claims
from reconciler.worker.worker import Worker

log = structlog.get_logger()


class ListenerStatus:
    """Whether notifications arrive, according to the listener's canary."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._canary_at = time.monotonic()
        self.listening = False

    @property
    def canary_age(self) -> float:
        """Seconds since a canary last came back, or since the start."""
        return time.monotonic() - self._canary_at

    def record_canary(self, seconds: float | None) -> None:
        """Record that a canary came back after so many seconds, None when it did not come back."""
        self.listening = seconds is not None
        if self.listening:
            self._canary_at = time.monotonic()
        self._metrics.heard_canary(seconds, time.time())


@dataclass(eq=False)
class Sweep:
    """Takes up eligible rows that are not in the bookkeeping yet; `finished` says whether any sweep has ended."""

    claims: Claims
    worker: Worker
    metrics: Metrics
    listener: ListenerStatus
    interval: float
    finished: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._finished_at = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since a sweep last ended, or since the start."""
        return time.monotonic() - self._finished_at

    async def run_once(self) -> None:
        """Take up new rows, forget deleted ones, and make the worker look for what is due."""
        if forgotten := await self.claims.deleted_rows.forget():
            log.info("sweep.forgotten", generations=forgotten)
        found = await self.claims.discover()
        if found:
            log.info("sweep.found", generations=found)
        self.worker.stir()
        self.finished = True
        self._finished_at = time.monotonic()
        self.metrics.last_sweep.set(time.time())

    async def make_up(self) -> None:
        """Sweep if nothing is heard and the last sweep ended more than a third of the interval ago."""
        if not self.listener.listening and self.age > self.interval / 3:
            await self.run_once()
