"""Shows the other replicas that this instance lives and what it does, and takes the lead where it is free.

The statements are in `postgres/heartbeat.py`, the states of leadership in `leadership.py`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from reconciler.metrics import Metrics
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.worker.periodic.leadership import Leadership


@dataclass(eq=False)
class InstanceHeartbeat:
    """Keeps this instance's row and its lease on the lead; `watched` says whether a reader follows what it does."""

    heartbeat: Heartbeat
    leadership: Leadership
    activity: Callable[[], Mapping[str, object]]
    metrics: Metrics
    watched: bool = field(default=False, init=False)

    async def run_once(self) -> None:
        """Show that this instance lives, and take or keep the lead."""
        asked_at = time.monotonic()
        await self.show()
        leads = await self.heartbeat.lead()
        self.leadership.record(leads, asked_at=asked_at)
        self.metrics.is_leader.set(leads)

    async def show(self) -> None:
        """Write what this instance is doing."""
        # If it fails, there is no watcher until the next heartbeat says otherwise.
        self.watched = False
        self.watched = await self.heartbeat.beat(self.activity())

    async def show_if_watched(self) -> None:
        """Write it only while a reader follows this instance."""
        if self.watched:
            await self.show()

    async def leave(self) -> None:
        """Give up the lead and remove this instance's row."""
        await self.heartbeat.leave()
