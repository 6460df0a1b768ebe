"""The simulated time: monotonic, faster than real time by `speed`, and it can be moved forward.

The lives of tasks and links are in simulated seconds. Unix times in answers are real, so that a client computes ages
correctly at any speed.
"""

from __future__ import annotations

import time


class Clock:
    """Counts simulated seconds since the simulator was created."""

    def __init__(self, speed: float = 1.0) -> None:
        if speed <= 0:
            raise ValueError("the speed must be above 0")
        self.speed = speed
        self._start_time = time.time()
        self._started = time.monotonic()
        self._skipped = 0.0

    def now(self) -> float:
        """Return the simulated seconds since the start."""
        return (time.monotonic() - self._started) * self.speed + self._skipped

    def skip(self, seconds: float) -> None:
        """Move the time forward by this many simulated seconds."""
        self._skipped += seconds

    def epoch(self, at: float) -> float:
        """Return the real Unix time of a simulated time; a skip moves earlier times into the past."""
        return self._start_time + (at - self._skipped) / self.speed

    def real(self, seconds: float) -> float:
        """Return the real seconds that these simulated seconds take."""
        return seconds / self.speed
