"""What systemd learns about the daemon: ready, status, stopping, and the watchdog's keep-alive, by sd_notify(3).

`SupervisorSocket` writes the datagrams, `SupervisorUpdates` decides what is sent and when; the daemon runs both. The
socket is written by hand because it takes a dozen lines, and the library for it (sdnotify) has had no release since
2017 and comes as source only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, MutableMapping

import structlog

from reconciler.health import Health

log = structlog.get_logger()

UPDATE_SECONDS = 1.0
"""The most seconds between two updates."""

CLOSE_SECONDS = 15.0
"""Seconds after the drain in which the daemon may cancel the remaining work and close everything."""


class SupervisorSocket:
    """The socket at NOTIFY_SOCKET; without an address nothing is sent.

    `watchdog` is the number of seconds within which the supervisor expects a keep-alive, None where it expects none.
    """

    def __init__(self, address: str = "", *, watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        self._failed = False
        # A leading @ stands for the NUL of Linux's abstract names. Other kinds (vsock) are for virtual machines.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> SupervisorSocket:
        """Remove the supervisor's variables from `environ` and use them: no child process may send in our name."""
        address = environ.pop("NOTIFY_SOCKET", "")
        period, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        for_us = period.isdecimal() and int(period) > 0 and pid in ("", str(os.getpid()))
        return cls(address, watchdog=int(period) / 1e6 if for_us else None)

    @property
    def listens(self) -> bool:
        """Whether there is a supervisor."""
        return self._socket is not None

    def send(self, **values: str | int) -> bool:
        """Send these values in one datagram, one a line; return whether the supervisor received it. Never blocks."""
        if self._socket is None:
            return False
        text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in values.items())
        try:
            self._socket.sendto(text.encode(errors="replace"), self._address)
        except OSError as error:
            if not self._failed:
                log.warning("supervisor.unheard", reason=error.strerror)
            self._failed = True
            return False
        self._failed = False
        return True

    def close(self) -> None:
        """Close the socket; later values are not sent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class SupervisorUpdates:
    """Reports the daemon's health to the supervisor, and that it stops once `stopping` returns True.

    Only a moving pulse of the daemon's loop feeds the watchdog. The daemon sets `activity`, which returns the
    work in hand as text, and `swept`, which returns whether a sweep has ended.
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
