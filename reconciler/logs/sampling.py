"""Drops repeated warnings: of each sort, the first few are logged and then one a minute.

Without it an outage would write a line for every row and second. `RepeatCounter` counts and reads no clock; `Sampling`
is the structlog processor that uses it. The next line of the same sort, or a `lines.suppressed`, says how many were
dropped. Only `setup` builds them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from structlog.typing import EventDict, WrappedLogger

SortKey = tuple[tuple[str, object], ...]

WORDS = ("event", "code", "stage", "round", "finding", "status", "logger")
"""The fields whose values make the sort of a warning: stable words, never ids or foreign text."""

ALWAYS = frozenset(
    {
        "callback.believed",
        "create.refused",
        "create.unknown",
        "event.dead",
        "generation.failed",
        "generation.gave_up",
        "generation.stuck",
        "lines.suppressed",
    }
)
"""Warnings that occur once for each cause; each of them is logged."""

LAST = "daemon.stopped"
"""The last line of the process: before it every dropped warning is reported."""


@dataclass(slots=True)
class _Sort:
    """One sort: when it last occurred and was last logged, how often it was logged, and how many were dropped since."""

    last_seen: float
    logged_at: float
    logged: int = 1
    suppressed: int = 0


class RepeatCounter:
    """Counts warnings by sort: `few` are logged at once, then one in `window` seconds.

    A sort that did not occur for `window` seconds starts again. At most `most` sorts are remembered.
    """

    def __init__(self, *, few: int = 5, window: float = 60.0, most: int = 256) -> None:
        self._few = few
        self._window = window
        self._most = most
        self._sorts: OrderedDict[SortKey, _Sort] = OrderedDict()

    def ask(self, sort: SortKey, now: float) -> int | None:
        """Return how many of this sort were dropped since the last one was logged; None to drop this one too."""
        known = self._sorts.get(sort)
        if known is None:
            self._sorts[sort] = _Sort(now, now)
            return 0
        self._sorts.move_to_end(sort)
        if now - known.last_seen >= self._window:
            known.logged = 0
        known.last_seen = now
        if known.logged >= self._few and now - known.logged_at < self._window:
            known.suppressed += 1
            return None
        suppressed, known.suppressed = known.suppressed, 0
        known.logged_at, known.logged = now, known.logged + 1
        return suppressed

    def expire(self, now: float, *, everything: bool = False) -> list[tuple[SortKey, int]]:
        """Forget the sorts that have ended or are too many; return how many of each were dropped and not reported."""
        unreported = []
        while self._sorts:
            sort, known = next(iter(self._sorts.items()))
            ended = now - known.last_seen >= self._window or len(self._sorts) > self._most
            if not ended and not everything:
                break
            del self._sorts[sort]
            if known.suppressed:
                unreported.append((sort, known.suppressed))
        return unreported


class Sampling:
    """A structlog processor: passes a warning on, with the number of dropped ones in `suppressed`, or drops it.

    Other levels always pass. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._repeats = RepeatCounter()
        # Libraries log from their own threads.
        self._lock = threading.Lock()

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Return the event or raise DropEvent; first report the dropped warnings of sorts that have ended."""
        repeats = event["level"] == "warning" and event["event"] not in ALWAYS
        now = self._clock()
        with self._lock:
            suppressed = self._repeats.ask(_sort(event), now) if repeats else 0
            unreported = self._repeats.expire(now, everything=event["event"] == LAST)
        for sort, count in unreported:
            fields = dict(sort)
            structlog.get_logger().warning("lines.suppressed", of=fields.pop("event"), suppressed=count, **fields)
        if suppressed is None:
            raise structlog.DropEvent
        return {**event, "suppressed": suppressed} if suppressed else event


def _sort(event: EventDict) -> SortKey:
    # As text, because a field's value may not be hashable.
    return tuple((word, str(event[word])) for word in WORDS if word in event)
