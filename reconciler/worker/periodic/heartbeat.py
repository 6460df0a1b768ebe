"""Shows the other replicas that this instance lives and what it does, and takes the lead where it is free.

It also learns that the database needs a newer version, and then ends the daemon; and that the database's clock was set.

The statements are in `postgres/heartbeat.py`, the states of leadership in `leadership.py`.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from reconciler.boottime import boottime
from reconciler.metrics import Metrics
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.migrations.schema_level import outdated
from reconciler.worker.periodic.leadership import Leadership


@dataclass(eq=False)
class InstanceHeartbeat:
    """Keeps this instance's row and its lease on the lead; `watched` says whether a reader follows what it does.

    `stir` makes the worker look for what is due, after the database's clock was set. `lasting` returns whether a step
    of a visit takes so long that a person may ask about it.
    """

    heartbeat: Heartbeat
    leadership: Leadership
    activity: Callable[[], Mapping[str, object]]
    metrics: Metrics
    stir: Callable[[], None] = lambda: None
    lasting: Callable[[], bool] = lambda: False
    watched: bool = field(default=False, init=False)
    _showed_lasting: bool = field(default=False, init=False)
    _required_version: str | None = field(default=None, init=False)
    _outdated: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run_once(self) -> None:
        """Show that this instance lives, and take or keep the lead."""
        asked_at = boottime()
        await self.show()
        leads = await self.heartbeat.lead()
        self.leadership.record(leads, asked_at=asked_at)
        self.metrics.is_leader.set(leads)

    async def show(self) -> None:
        """Write what this instance is doing."""
        # If it fails, there is no watcher until the next heartbeat says otherwise.
        self.watched = False
        self._showed_lasting = self.lasting()
        result = await self.heartbeat.beat(self.activity())
        self.watched = result.watched
        if result.required_version is not None:
            self._required_version = result.required_version
            self._outdated.set()
        if await self.heartbeat.settle_clock(result.clock_behind):
            self.stir()

    async def until_outdated(self) -> None:
        """Wait until this version is too old for the database, and raise Config then."""
        await self._outdated.wait()
        assert self._required_version is not None
        raise outdated(self._required_version)

    async def show_if_needed(self) -> None:
        """Write it while a reader follows this instance or a step lasts, and once more when no step lasts any longer.

        Else a step that has ended would be shown until the next heartbeat.
        """
        if self.watched or self._showed_lasting or self.lasting():
            await self.show()

    async def leave(self) -> None:
        """Give up the lead and remove this instance's row."""
        await self.heartbeat.leave()
