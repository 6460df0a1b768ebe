"""Whether the process lives and whether it is ready, as supervisors and balancers ask; no SQL in it.

The daemon writes, the web door reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

DRAINING = "draining"
"""The reason of a daemon that ends: whoever is inside is answered, and nobody else comes in."""


@dataclass(slots=True)
class Health:
    """`reason` says why it is not ready, None when it is; `pulse` is when the loop last turned (monotonic seconds).

    `trouble` is asked only while there is no other reason.
    """

    patience: float
    reason: str | None = "starting"
    pulse: Callable[[], float] = field(default=time.monotonic)
    trouble: Callable[[], str | None] = field(default=lambda: None)

    def unready(self) -> str | None:
        """Return why it is not ready, None when it is."""
        return self.reason or self.trouble()

    def beats(self) -> bool:
        """Whether the loop has turned within the patience."""
        return time.monotonic() - self.pulse() < self.patience
