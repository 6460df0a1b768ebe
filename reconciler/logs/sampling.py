"""Keeps an outage from writing a line a row and second: of what repeats, the first few are told and then one a minute.

`Repeats` counts and knows no clock; `Sampling` is the step of structlog that asks it. What is left out is owed: the
next line of its sort, or a `lines.suppressed`, says how much it was. Only `setup` builds them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from structlog.typing import EventDict, WrappedLogger

SortKey = tuple[tuple[str, object], ...]

WORDS = ("event", "code", "stage", "round", "finding", "status", "logger")
"""The fields that make two warnings one sort: stable words all, never an id or what others wrote."""

ALWAYS = frozenset(
    {
        "callback.believed",
        "create.refused",
        "create.unknown",
        "event.dead",
        "generation.failed",
        "generation.gave_up",
        "lines.suppressed",
    }
)
"""Warnings that come once for what they tell of: each of them is written."""

LAST = "daemon.stopped"
"""Behind this line nothing follows that could tell of what is owed."""


@dataclass(slots=True)
class _Sort:
    """What is known of one sort: when it was last seen, when last told, how often told, how often left out since."""

    seen: float
    at: float
    times: int = 1
    suppressed: int = 0


class RepeatCounter:
    """Tells the first `few` of a sort and then one in `window` seconds; a sort unseen for a window begins anew.

    At most `most` sorts are remembered.
    """

    def __init__(self, *, few: int = 5, window: float = 60.0, most: int = 256) -> None:
        self._few = few
        self._window = window
        self._most = most
        self._sorts: OrderedDict[SortKey, _Sort] = OrderedDict()

    def ask(self, sort: SortKey, now: float) -> int | None:
        """How many of this sort were left out since the last was told; None where this one is left out, too."""
        told = self._sorts.get(sort)
        if told is None:
            self._sorts[sort] = _Sort(now, now)
            return 0
        self._sorts.move_to_end(sort)
        if now - told.seen >= self._window:
            told.times = 0
        told.seen = now
        if told.times >= self._few and now - told.at < self._window:
            told.suppressed += 1
            return None
        suppressed, told.suppressed = told.suppressed, 0
        told.at, told.times = now, told.times + 1
        return suppressed

    def owed(self, now: float, *, all_of_it: bool = False) -> list[tuple[SortKey, int]]:
        """Forget the sorts that have ended, or are one too many, and return how many of each were left out untold."""
        owed = []
        while self._sorts:
            sort, told = next(iter(self._sorts.items()))
            ended = now - told.seen >= self._window or len(self._sorts) > self._most
            if not ended and not all_of_it:
                break
            del self._sorts[sort]
            if told.suppressed:
                owed.append((sort, told.suppressed))
        return owed


class Sampling:
    """Lets a warning through, with `suppressed` where others of its sort were left out, or drops it.

    Other levels always pass: an error is never lost, and what succeeds is told once anyway. `clock` is in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._repeats = RepeatCounter()
        # Libraries log from their own threads.
        self._lock = threading.Lock()

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The event, or DropEvent; before it, lines for what is owed of others."""
        repeats = event["level"] == "warning" and event["event"] not in ALWAYS
        now = self._clock()
        with self._lock:
            suppressed = self._repeats.ask(_sort(event), now) if repeats else 0
            owed = self._repeats.owed(now, all_of_it=event["event"] == LAST)
        for sort, count in owed:
            told = dict(sort)
            structlog.get_logger().warning("lines.suppressed", of=told.pop("event"), suppressed=count, **told)
        if suppressed is None:
            raise structlog.DropEvent
        return {**event, "suppressed": suppressed} if suppressed else event


def _sort(event: EventDict) -> SortKey:
    # As text: what a field holds may be of a kind that cannot be looked up.
    return tuple((word, str(event[word])) for word in WORDS if word in event)
