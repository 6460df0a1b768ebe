"""Learns how long tasks take, so that polls come when results are likely.

The leader learns and the others read what it learned; the sums are in `domain/poll_interval.py`.
"""

from __future__ import annotations

from reconciler.postgres.poll_stats import PollStats
from reconciler.worker.periodic.leadership import KNOWN_AFTER, Leadership
from reconciler.worker.visit import CurrentPolicy


class PollStatisticsUpdate:
    """Keeps the duration models that visits use up to date."""

    name = "pace"
    interval = 30.0
    first_after = KNOWN_AFTER

    def __init__(self, poll_stats: PollStats, leadership: Leadership, policy: CurrentPolicy) -> None:
        self._poll_stats = poll_stats
        self._leadership = leadership
        self._policy = policy

    async def run_once(self) -> None:
        """Learn, or read what the leader learned, and use it from now on."""
        learned = await (self._poll_stats.learn() if self._leadership.leads else self._poll_stats.recall())
        if learned is not None:
            self._policy.learn(learned.curves, learned.poll_price)
