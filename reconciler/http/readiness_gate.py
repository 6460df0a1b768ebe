"""Lets requests in only while the daemon works: the port is open from the start, the database may not be there yet.

The daemon sets the services when its work starts. While it drains, the gate lets no request in, and the daemon waits
for those that are inside.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from reconciler.health import Health
from reconciler.http.live.hub import Hub
from reconciler.http.problems import our_words, unavailable
from reconciler.operations.operator import Operator
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
"""Seconds in which a request whose work was cut off can still answer."""


@dataclass(frozen=True, slots=True)
class RouteServices:
    """What the routes work with."""

    worker: Worker
    reports: Reports
    operator: Operator
    hub: Hub
    inbox: Inbox
    generation_list: GenerationList
    single_flight: SingleFlight
    link_refresher: LinkRefresher
    task_creator: TaskCreator


@dataclass(slots=True)
class ReadinessGate:
    """Gives requests the services, and knows the requests that have them."""

    health: Health
    services: RouteServices | None = None
    _requests: set[asyncio.Task[Any]] = field(default_factory=set, init=False)

    def enter(self) -> RouteServices:
        """Return the services; Problem 503 with Retry-After before they are there and after a drain has started.

        Called in the request's own task, which counts as inside until it ends.
        """
        if self.services is None or self.health.reason is not None:
            raise unavailable(our_words(self.health.reason or "starting"))
        if task := asyncio.current_task():
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
        return self.services

    async def drain(self, seconds: float) -> None:
        """Let the requests that are inside, and the orders to KIE, end for so many seconds; then cut off the orders."""
        orders = [] if self.services is None else [self.services.task_creator.drain(seconds)]
        await asyncio.gather(self.wait_until_empty(seconds), *orders)

    async def wait_until_empty(self, seconds: float) -> None:
        """Wait until no request is inside, at most for so many seconds."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=seconds)

    async def cut(self) -> None:
        """Cancel the requests that are inside, after a moment in which they can still answer."""
        await self.wait_until_empty(GRACE)
        remaining = set(self._requests)
        for task in remaining:
            task.cancel()
        if remaining:
            log.warning("requests.cut", count=len(remaining))
            await asyncio.wait(remaining)
