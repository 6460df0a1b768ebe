"""Deletes what is too old, a bounded amount every hour. Only the leader does.

The statements are in `postgres/retention.py` and `postgres/poll_stats.py`; the command `cleanup` uses them, too.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.retention import Retention
from reconciler.worker.periodic.leadership import KNOWN_AFTER, Leadership
from reconciler.worker.prune import delete_failed

log = structlog.get_logger()

BATCHES = 40
"""Batches of old failures that one run deletes: a backlog of a million takes two days and disturbs nothing else."""


class RetentionCleanup:
    """Deletes old bookkeeping, and failed rows older than `failed_days` (0 = never)."""

    name = "upkeep"
    interval = 3600.0
    first_after = KNOWN_AFTER

    def __init__(
        self, retention: Retention, poll_stats: PollStats, leadership: Leadership, *, failed_days: int
    ) -> None:
        self._retention = retention
        self._poll_stats = poll_stats
        self._leadership = leadership
        self._failed_days = failed_days

    async def run_once(self) -> None:
        """Delete the next part of what is too old."""
        if not self._leadership.leads:
            return
        await self._poll_stats.trim()
        await self._retention.traces()
        await self._retention.enrol()
        await self._retention.deserted()
        if self._failed_days:
            deleted = await delete_failed(self._retention, timedelta(days=self._failed_days), batches=BATCHES)
            if deleted:
                log.info("failed.deleted", generations=deleted, older_than_days=self._failed_days)
