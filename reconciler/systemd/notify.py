"""The supervisor that started us, as sd_notify(3) describes its socket: datagrams of NAME=VALUE lines.

Here is how something is said; `systemd/lifecycle.py` knows what and when. Written by hand because it is
a dozen lines, and the library for it (sdnotify) has had no release since 2017 and comes as source only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import structlog

log = structlog.get_logger()


class SupervisorSocket:
    """Whoever listens at NOTIFY_SOCKET; without one everything is said to nobody.

    `watchdog` is within how many seconds it wants to hear of the pulse, None where it does not watch.
    """

    def __init__(self, address: str = "", *, watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        self._failed = False
        # A leading @ stands for the NUL of Linux's abstract names; other kinds (vsock) are for whole machines.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> SupervisorSocket:
        """Take what the supervisor told us out of `environ`: no child of ours is to speak for us."""
        address = environ.pop("NOTIFY_SOCKET", "")
        period, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        meant = period.isdecimal() and int(period) > 0 and pid in ("", str(os.getpid()))
        return cls(address, watchdog=int(period) / 1e6 if meant else None)

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def tell(self, **said: str | int) -> bool:
        """Say these, each on a line, at once or not at all; return whether the supervisor has it."""
        if self._socket is None:
            return False
        text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in said.items())
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
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
