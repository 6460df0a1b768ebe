"""The simulator's time: monotonic, faster than the wall by `speed`, and movable by hand.

Task lives and links are measured in KIE's seconds, which this clock counts. Epoch times told to clients are real ones,
so that a client's own arithmetic ("how long ago did it end?") stays right at any speed.
"""

from __future__ import annotations

import time


class Clock:
    """Seconds of KIE's time since the simulator was made."""

    def __init__(self, speed: float = 1.0) -> None:
        if speed <= 0:
            raise ValueError("the speed must be above 0")
        self.speed = speed
        self._wall = time.time()
        self._began = time.monotonic()
        self._skipped = 0.0

    def now(self) -> float:
        """KIE's seconds since the beginning."""
        return (time.monotonic() - self._began) * self.speed + self._skipped

    def skip(self, seconds: float) -> None:
        """Let so many of KIE's seconds have passed at once."""
        self._skipped += seconds

    def epoch(self, at: float) -> float:
        """The real Unix time of a moment of KIE's time; a skip moves what lies before it into the past."""
        return self._wall + (at - self._skipped) / self.speed

    def real(self, seconds: float) -> float:
        """How long so many of KIE's seconds take on the wall."""
        return seconds / self.speed
