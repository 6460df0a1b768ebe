"""What a supervisor (systemd) is told of the daemon's life: that it is ready, what it does or waits for, that it ends.

The watchdog is fed by the loop's pulse and by nothing else. The daemon builds it and runs it; how something is said
lives in `systemd/notify.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from reconciler.health import Health
from reconciler.systemd.notify import SupervisorSocket

LOOK = 1.0
"""The most seconds between two looks at the daemon."""

CLOSING = 15.0
"""Seconds that it may take, beyond the drain, to cut what is left and close everything."""


class SupervisorUpdates:
    """Tells the supervisor what the health says, and once `ending` is true that we end, after at most a drain.

    `doing` says what is in hand, `swept` whether a sweep has ended.
    """

    def __init__(
        self, supervisor: SupervisorSocket, health: Health, ending: Callable[[], bool], *, drain_seconds: float
    ) -> None:
        self._supervisor = supervisor
        self._health = health
        self._ending = ending
        self._drain_seconds = drain_seconds
        self._pulse = -1.0
        self._said = ""
        self._ready = self._stopping = False
        self.doing: Callable[[], str] = lambda: ""
        self.swept: Callable[[], bool] = lambda: False

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Tell while the context lasts, and once more at its end."""
        telling = asyncio.create_task(self._telling(), name="lifeline") if self._supervisor.listens else None
        try:
            yield
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
            self._stop("stopped")
            self._supervisor.close()

    async def _telling(self) -> None:
        watchdog = self._supervisor.watchdog
        pause = LOOK if watchdog is None else min(LOOK, watchdog / 4)
        while True:
            self.look()
            await asyncio.sleep(pause)

    def look(self) -> None:
        """Tell what is new since the last look."""
        self._feed()
        reason = self._health.unready()
        if self._ending():
            self._stop(", ".join(told for told in (reason, self.doing()) if told))
        elif reason is not None:
            self._say(f"waiting: {reason}")
        elif self._ready or not self.swept():
            self._say(self.doing() if self._ready else "the first sweep is under way")
        else:
            self._ready = self._supervisor.tell(READY=1, STATUS=self.doing())

    def _feed(self) -> None:
        pulse = self._health.pulse()
        if self._supervisor.watchdog is not None and pulse != self._pulse:
            self._supervisor.tell(WATCHDOG=1)
        self._pulse = pulse

    def _stop(self, status: str) -> None:
        if not self._stopping:
            # A drain longer than the unit's TimeoutStopSec is ours to ask for; nobody else knows how long it was set.
            microseconds = round((self._drain_seconds + CLOSING) * 1e6)
            self._stopping = self._supervisor.tell(STOPPING=1, EXTEND_TIMEOUT_USEC=microseconds, STATUS=status)
            self._said = status
        self._say(status)

    def _say(self, status: str) -> None:
        if status != self._said and self._supervisor.tell(STATUS=status):
            self._said = status
