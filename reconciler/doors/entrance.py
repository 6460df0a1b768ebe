"""Between the port, which is open from the start, and the parts, which are there once the database is.

The daemon opens the entrance when work begins and closes it when it drains; a route asks it for what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.doors.chores import Desk
from reconciler.doors.health import Health
from reconciler.doors.hub import Hub
from reconciler.doors.problems import unavailable
from reconciler.edges.reports import Reports
from reconciler.engine.work import Work


@dataclass(frozen=True, slots=True)
class Inside:
    """What the routes work with."""

    work: Work
    reports: Reports
    desk: Desk
    hub: Hub


@dataclass(slots=True)
class Entrance:
    """Gives the parts to those who may come in now."""

    health: Health
    inside: Inside | None = None

    def go(self) -> Inside:
        """Return the parts; Problem 503 with Retry-After while they are not there, or not any more."""
        if self.inside is None or self.health.reason is not None:
            raise unavailable(self.health.reason or "starting")
        return self.inside
