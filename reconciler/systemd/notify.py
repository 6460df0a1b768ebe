"""The notification socket of systemd, as sd_notify(3) describes it: datagrams of NAME=VALUE lines.

`lifecycle.py` decides what is sent and when. It is written by hand because it takes a dozen lines, and the library for
it (sdnotify) has had no release since 2017 and comes as source only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import structlog

log = structlog.get_logger()


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
