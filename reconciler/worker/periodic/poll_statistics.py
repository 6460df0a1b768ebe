"""Learns how long tasks take, so that polls come when results are likely.

The leader learns and the others read what it learned; the sums are in `domain/poll_interval.py`.
"""

from reconciler.postgres.poll_stats import PollStats
from reconciler.worker.periodic.leadership import Leadership
from reconciler.worker.visit import CurrentPolicy


async def update_poll_statistics(poll_stats: PollStats, leadership: Leadership, policy: CurrentPolicy) -> None:
    """Learn, or read what the leader learned, and let visits use these duration models from now on."""
    learned = await (poll_stats.learn() if leadership.leads else poll_stats.recall())
    if learned is not None:
        policy.learn(learned.curves, learned.poll_price)
