"""Between the port, which is open from the start, and the parts, which are there once the database is.

The daemon opens the entrance when work begins and closes it when it drains; a route asks it for what it needs. Whoever
came in is let finish before the parts are taken away.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from reconciler.health import Health
from reconciler.http.live.hub import Hub
from reconciler.http.problems import unavailable
from reconciler.operations.actions import Operator
from reconciler.operations.single_flight import SingleFlight
from reconciler.postgres.inbox import Inbox
from reconciler.postgres.reports.generation_list import GenerationList
from reconciler.postgres.reports.reports import Reports
from reconciler.worker.create.create_task import TaskCreator
from reconciler.worker.worker import Worker

if TYPE_CHECKING:
    # The route imports this module.
    from reconciler.http.routes.download_url import LinkRefresher

log = structlog.get_logger()

GRACE = 0.5
"""Seconds in which a request whose work was taken from it may still say so."""


@dataclass(frozen=True, slots=True)
class RouteServices:
    """What the routes work with."""

    work: Worker
    reports: Reports
    desk: Operator
    hub: Hub
    inbox: Inbox
    listing: GenerationList
    syncs: SingleFlight
    mint: LinkRefresher
    creation: TaskCreator


@dataclass(slots=True)
class ReadinessGate:
    """Gives the parts to those who may come in now."""

    health: Health
    inside: RouteServices | None = None
    _within: set[asyncio.Task[Any]] = field(default_factory=set, init=False)

    def go(self) -> RouteServices:
        """Return the parts; Problem 503 with Retry-After while they are not there, or not any more.

        Called in the request's own task, which holds them until it is done.
        """
        if self.inside is None or self.health.reason is not None:
            raise unavailable(self.health.reason or "starting")
        if task := asyncio.current_task():
            self._within.add(task)
            task.add_done_callback(self._within.discard)
        return self.inside

    async def emptied(self, seconds: float) -> None:
        """Wait until everybody who came in has left, but no longer than this."""
        if self._within:
            await asyncio.wait(self._within, timeout=seconds)

    async def cut(self) -> None:
        """Put out who is still inside, once they had a moment to say that their work was taken from them."""
        await self.emptied(GRACE)
        left = set(self._within)
        for task in left:
            task.cancel()
        if left:
            log.warning("requests.cut", count=len(left))
            await asyncio.wait(left)
