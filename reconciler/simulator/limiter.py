"""KIE's rate limits: so many requests of one key in a sliding window; what is over is rejected, not queued."""

from __future__ import annotations

from collections import deque


class Limiter:
    """At most `most` requests in `window` seconds for each key; told the time."""

    def __init__(self, most: int, window: float) -> None:
        self._most = most
        self._window = window
        self._seen: dict[str, deque[float]] = {}

    def allows(self, key: str, now: float) -> bool:
        """Count one request of this key unless it is one too many."""
        seen = self._seen.setdefault(key, deque(maxlen=self._most))
        if len(seen) == self._most and now - seen[0] < self._window:
            return False
        seen.append(now)
        return True
