"""KIE's rate limits: a number of requests for each key in a sliding window; more are rejected, not queued."""

from __future__ import annotations

from collections import deque


class Limiter:
    """Allows `most` requests in `window` seconds for each key."""

    def __init__(self, most: int, window: float) -> None:
        self._most = most
        self._window = window
        self._times: dict[str, deque[float]] = {}

    def allows(self, key: str, now: float) -> bool:
        """Count one request of this key and return True; return False if it exceeds the limit."""
        times = self._times.setdefault(key, deque(maxlen=self._most))
        if len(times) == self._most and now - times[0] < self._window:
            return False
        times.append(now)
        return True
