"""The breakers of all result hosts, or of all KIE paths, of this process; says in the log when one opens and closes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from reconciler.errors import Transient
from reconciler.worker.capacity.breaker import TRIAL_SECONDS, Breaker
from reconciler.worker.capacity.returns import Returns

log = structlog.get_logger()

SILENT_CODES = frozenset({"timeout", "network"})
"""The codes of requests that ended without an answer."""

_MOST_TARGETS = 256


class TargetSilent(Transient):
    """The host or path says nothing, so no request was sent; the row comes again after `retry_after` seconds.

    `silent_for` is how many seconds ago the first of the unanswered requests began.
    """

    def __init__(self, message: str, *, code: str, retry_after: float, silent_for: float) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.silent_for = silent_for


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of one row to one target; call one of the two when it is known whether a byte came.

    An attempt that was cancelled calls neither: it says nothing about the target.
    """

    _breakers: "Breakers"
    _target: str
    _generation_id: str
    _began: float

    def heard(self) -> None:
        """Note that a byte has come; calling it again is cheap."""
        self._breakers.heard(self._target)

    def silent(self) -> None:
        """Note that the request has ended without a byte."""
        self._breakers.silent(self._target, self._generation_id, self._began)


class Breakers:
    """The breakers of one kind of targets; `code` is the reason of rows that wait, `noun` names a target in it."""

    def __init__(self, code: str, noun: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._code = code
        self._noun = noun
        self._clock = clock
        self._by_target: dict[str, Breaker] = {}
        self._returns = Returns(TRIAL_SECONDS)

    def is_open(self, target: str) -> bool:
        """Return whether rows of this target have to wait."""
        breaker = self._by_target.get(target)
        return breaker is not None and breaker.is_open

    def admits(self, target: str, generation_id: str) -> bool:
        """Return whether a request of this row may go out; it may where the row is the trial of an open breaker."""
        breaker = self._by_target.get(target)
        return breaker is None or breaker.admits(generation_id, self._clock())

    def attempt(self, target: str, generation_id: str) -> Attempt:
        """Return the attempt that begins now; raise TargetSilent where the row has to wait."""
        if not self.admits(target, generation_id):
            raise self.refusal(target)
        return Attempt(self, target, generation_id, self._clock())

    def refusal(self, target: str) -> TargetSilent:
        """Return why a row of this target has to wait, and take a time for its return."""
        now = self._clock()
        breaker = self._by_target.get(target)
        since = now if breaker is None or breaker.since is None else breaker.since
        message = f"the {self._noun} {target} says nothing; it is tried every {TRIAL_SECONDS:g} s"
        wait = self._returns.wait(target, now)
        return TargetSilent(message, code=self._code, retry_after=wait, silent_for=now - since)

    def heard(self, target: str) -> None:
        """Note a byte of this target."""
        closed_after = self._breaker(target).heard(self._clock())
        if closed_after is not None:
            self._returns.forget(target)
            log.info("breaker.closed", target=target, code=self._code, took=round(closed_after, 3))

    def silent(self, target: str, generation_id: str, began: float) -> None:
        """Note that a request of this row, which began at `began` of the clock, ended without a byte."""
        if self._breaker(target).silent(generation_id, began, self._clock()):
            log.warning("breaker.opened", target=target, code=self._code)

    def _breaker(self, target: str) -> Breaker:
        breaker = self._by_target.pop(target, None) or Breaker()
        self._by_target[target] = breaker
        if len(self._by_target) > _MOST_TARGETS:
            # The one that was used least recently; an open one only where all others are open, too.
            oldest = next((name for name, one in self._by_target.items() if not one.is_open), None)
            del self._by_target[oldest or next(iter(self._by_target))]
        return breaker
