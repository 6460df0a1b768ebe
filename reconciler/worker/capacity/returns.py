"""When rows that found no room come again: spread over time, so that a backlog of thousands fills no claim.

Pure; the times are seconds of one clock of the caller's.
"""

LONGEST = 300.0
"""No row rests longer than this: where so many rest, they come again together."""

A_SECOND = 20.0
"""The rows of one group that come again each second: a tenth of what one process can visit."""

_MOST_GROUPS = 256


class Returns:
    """The next free time of return for each group; a row rests `least` seconds at least."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._last: dict[str, float] = {}

    def wait(self, group: str, now: float) -> float:
        """Return the seconds after which this row of the group comes again, and take that time for it."""
        self._forget_past(now)
        at = max(now + self._least, self._last.pop(group, 0.0) + 1 / A_SECOND)
        at = self._last[group] = min(at, now + max(self._least, LONGEST))
        return at - now

    def forget(self, group: str) -> None:
        """Let the next row of the group rest for the least time only."""
        self._last.pop(group, None)

    def _forget_past(self, now: float) -> None:
        if len(self._last) < _MOST_GROUPS:
            return
        self._last = {group: at for group, at in self._last.items() if at > now}
        while len(self._last) >= _MOST_GROUPS:
            del self._last[next(iter(self._last))]
