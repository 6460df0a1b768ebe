"""Shows the other replicas that this instance lives and what it does, and takes the lead where it is free.

The statements are in `postgres/heartbeat.py`, the states of leadership in `leadership.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from reconciler.metrics import Metrics
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.worker.periodic.leadership import Leadership


class InstanceHeartbeat:
    """Keeps this instance's row and its lease on the lead; `watched` says whether a reader follows what it does."""

    name = "attend"
    first_after = 0.0

    def __init__(
        self,
        heartbeat: Heartbeat,
        leadership: Leadership,
        activity: Callable[[], Mapping[str, object]],
        metrics: Metrics,
        *,
        interval: float,
    ) -> None:
        self._heartbeat = heartbeat
        self._leadership = leadership
        self._activity = activity
        self._metrics = metrics
        self.interval = interval
        self.watched = False

    async def run_once(self) -> None:
        """Show that this instance lives, and take or keep the lead."""
        asked_at = time.monotonic()
        await self.show()
        leads = await self._heartbeat.lead()
        self._leadership.record(leads, asked_at=asked_at)
        self._metrics.is_leader.set(leads)

    async def show(self) -> None:
        """Write what this instance is doing."""
        # If it fails, there is no watcher until the next heartbeat says otherwise.
        self.watched = False
        self.watched = await self._heartbeat.beat(self._activity())

    async def leave(self) -> None:
        """Give up the lead and remove this instance's row."""
        await self._heartbeat.leave()


class WatchedHeartbeat:
    """Shows what this instance is doing every second while a reader follows it."""

    name = "show"
    interval = 1.0
    first_after = 0.0

    def __init__(self, heartbeat: InstanceHeartbeat) -> None:
        self._heartbeat = heartbeat

    async def run_once(self) -> None:
        """Show it if there is a watcher."""
        if self._heartbeat.watched:
            await self._heartbeat.show()
