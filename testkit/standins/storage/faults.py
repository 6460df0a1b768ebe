"""Failures on demand, one operation at a time.

Operations: bucket, put, info, list, remove, read, public, create, head, patch, terminate.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

Kind = Literal[
    "html",  # a gateway's page with `status`, body drained
    "no_route",  # a gateway's 404 in JSON
    "error",  # the server's own error: 402, 540 or 544 where `status` is that, else 500
    "limited",  # 429 with Retry-After `seconds`
    "garbage",  # 200 with a page instead of JSON
    "slow",  # the right answer after `seconds`
    "stall",  # no answer at all
    "deaf",  # reads nothing and answers nothing
    "lost",  # the work is done, the connection is cut before the answer
    "cut",  # the connection is cut after `after` bytes of the body
    "smaller",  # patch only: 204, but just `after` bytes of the body were kept
    "unfinished",  # patch only: the last byte is kept, the row is not written, the answer is lost
    "gone",  # head and patch: the upload has expired, `status` 404 or 410
]


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    status: int = 502
    after: int = 0
    seconds: float = 0.0


FAULT: web.RequestKey[Fault | None] = web.RequestKey("fault")


@dataclass(slots=True)
class _Planned:
    operation: str
    fault: Fault
    left: int
    path: str | None


@dataclass(slots=True)
class Faults:
    """The faults to come; `roll` decides where nothing is planned."""

    roll: Callable[[str, str], Fault | None] | None = None
    _plan: list[_Planned] = field(default_factory=list)

    def add(self, operation: str, fault: Fault, *, times: int = 1, path: str | None = None) -> None:
        self._plan.append(_Planned(operation, fault, times, path))

    def take(self, operation: str, path: str) -> Fault | None:
        for planned in self._plan:
            if planned.operation == operation and planned.path in (None, path):
                planned.left -= 1
                if planned.left <= 0:
                    self._plan.remove(planned)
                return planned.fault
        return self.roll(operation, path) if self.roll else None

    @property
    def left(self) -> int:
        return sum(planned.left for planned in self._plan)

    def clear(self) -> None:
        self._plan.clear()
        self.roll = None


def at_random(share: float, seed: int) -> Callable[[str, str], Fault | None]:
    """A roll that fails `share` of all requests on objects, the same way for the same seed."""
    dice = random.Random(seed)
    choice = (
        Fault("html", status=503),
        Fault("error", status=500),
        Fault("limited", seconds=1),
        Fault("lost"),
        Fault("cut", after=1000),
        Fault("garbage"),
    )

    def roll(operation: str, path: str) -> Fault | None:
        if operation == "bucket" or dice.random() >= share:
            return None
        return dice.choice(choice)

    return roll
