"""Whether the process lives and whether it is ready, as supervisors and load balancers ask. It holds no SQL.

The daemon writes it; the health routes and the updates for systemd read it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

DRAINING = "draining"
"""The reason of a daemon that ends: it answers the requests under way and accepts no others."""


@dataclass(slots=True)
class Pulse:
    """A periodic task that shows that the event loop runs; `at` is the monotonic time when it last did."""

    at: float = field(default_factory=time.monotonic)

    async def run_once(self) -> None:
        """Note the time. It waits for nothing: a database that is away must not stop the pulse."""
        self.at = time.monotonic()


@dataclass(slots=True)
class Health:
    """`reason` says why the process is not ready, None when it is; `pulse` is when the loop last ran (monotonic).

    The process counts as alive for `patience` seconds after a pulse. `trouble` is asked only while there is no other
    reason.
    """

    patience: float
    reason: str | None = "starting"
    pulse: Callable[[], float] = field(default=time.monotonic)
    trouble: Callable[[], str | None] = field(default=lambda: None)

    def unready(self) -> str | None:
        """Return why it is not ready, None when it is."""
        return self.reason or self.trouble()

    def beats(self) -> bool:
        """Whether the loop has run within the patience."""
        return time.monotonic() - self.pulse() < self.patience
