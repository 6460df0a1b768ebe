"""What systemd learns about the daemon, and when: ready, current status, stopping, and the watchdog's keep-alive.

Only the pulse of the daemon's loop feeds the watchdog. The daemon builds and runs this; `notify.py` writes the
messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from reconciler.health import Health
from reconciler.systemd.notify import SupervisorSocket

UPDATE_SECONDS = 1.0
"""The most seconds between two updates."""

CLOSE_SECONDS = 15.0
"""Seconds after the drain in which the daemon may cancel the remaining work and close everything."""


class SupervisorUpdates:
    """Reports the daemon's health to the supervisor, and that it stops once `stopping` returns True.

    The daemon sets `activity`, which returns what is in hand, and `swept`, which returns whether a sweep has ended.
    """

    def __init__(
        self, supervisor: SupervisorSocket, health: Health, stopping: Callable[[], bool], *, drain_seconds: float
    ) -> None:
        self._supervisor = supervisor
        self._health = health
        self._is_stopping = stopping
        self._drain_seconds = drain_seconds
        self._pulse = -1.0
        self._status = ""
        self._ready_sent = self._stopping_sent = False
        self.activity: Callable[[], str] = lambda: ""
        self.swept: Callable[[], bool] = lambda: False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send updates while the context lasts, and the last one at its end."""
        updates = asyncio.create_task(self._run(), name="systemd") if self._supervisor.listens else None
        try:
            yield
        finally:
            if updates is not None:
                updates.cancel()
                await asyncio.gather(updates, return_exceptions=True)
            self._send_stopping("stopped")
            self._supervisor.close()

    async def _run(self) -> None:
        watchdog = self._supervisor.watchdog
        pause = UPDATE_SECONDS if watchdog is None else min(UPDATE_SECONDS, watchdog / 4)
        while True:
            self.update()
            await asyncio.sleep(pause)

    def update(self) -> None:
        """Send what has changed since the last update."""
        self._feed_watchdog()
        reason = self._health.unready()
        if self._is_stopping():
            self._send_stopping(", ".join(part for part in (reason, self.activity()) if part))
        elif reason is not None:
            self._send_status(f"waiting: {reason}")
        elif self._ready_sent or not self.swept():
            self._send_status(self.activity() if self._ready_sent else "the first sweep is under way")
        else:
            self._ready_sent = self._supervisor.send(READY=1, STATUS=self.activity())

    def _feed_watchdog(self) -> None:
        pulse = self._health.pulse()
        if self._supervisor.watchdog is not None and pulse != self._pulse:
            self._supervisor.send(WATCHDOG=1)
        self._pulse = pulse

    def _send_stopping(self, status: str) -> None:
        if not self._stopping_sent:
            # A drain may last longer than the unit's TimeoutStopSec, so we ask for the time that it may take.
            microseconds = round((self._drain_seconds + CLOSE_SECONDS) * 1e6)
            self._stopping_sent = self._supervisor.send(STOPPING=1, EXTEND_TIMEOUT_USEC=microseconds, STATUS=status)
            self._status = status
        self._send_status(status)

    def _send_status(self, status: str) -> None:
        if status != self._status and self._supervisor.send(STATUS=status):
            self._status = status
