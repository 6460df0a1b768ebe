"""When the content of callbacks is trusted: KIE's API is unreachable for long enough, and all callbacks agree.

KIE's signature covers a callback's task id and time, not its content, so normally only the API's record counts. Pure.
The poller calls this; no other module trusts the content of a callback.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from reconciler.domain.model import Row
from reconciler.domain.observations import CallbackResult, Failed, Observation, Ready, Unreachable

FAILED_POLLS = 3
"""This many polls in a row, the last one included, must have failed to reach KIE.

Where KIE's page answers nobody and the row is not asked about, the polls of other rows count."""

FAILED_FOR = timedelta(seconds=10)
"""The first of these polls is at least this long ago: requested visits must not hurry the trust."""

_KEY_REJECTED = frozenset({"unauthorized", "key_missing"})
_NOT_UNDERSTOOD = frozenset({"unknown_state", "bad_result", "failed_without_record"})
"""KIE did answer about the task, in words that the dialect cannot read: they may contradict the callback."""


def may_trust(row: Row, unreachable: Unreachable, key_count: int, now: datetime) -> bool:
    """Return whether callbacks may be read; `row` has not absorbed `unreachable` yet."""
    if unreachable.silent_for is not None:
        # Several other rows have asked in vain, for so long.
        return unreachable.silent_for >= FAILED_FOR.total_seconds()
    if not unreachable.request_sent or unreachable.reason in _NOT_UNDERSTOOD:
        return False
    # While another API key may have made the task, KIE can still be asked with it.
    no_key_left = row.acknowledged_at is not None or row.unknowns + 1 >= key_count
    if unreachable.reason in _KEY_REJECTED and no_key_left:
        return True
    # "Task unknown" counts as a failed poll too, but KIE was reached.
    often = row.failures - row.unknowns >= FAILED_POLLS - 1
    return often and row.failing_since is not None and now - row.failing_since >= FAILED_FOR


def trusted_result(
    row: Row, unreachable: Unreachable, callbacks: Iterable[Observation], key_count: int, now: datetime
) -> CallbackResult | Unreachable:
    """Return the success that all callbacks agree on, else `unreachable`; a failure needs KIE's own record."""
    ended = [callback for callback in callbacks if isinstance(callback, Ready | Failed)]
    successes = {callback.results: callback for callback in reversed(ended) if isinstance(callback, Ready)}
    contradicted = len(successes) != 1 or any(isinstance(callback, Failed) for callback in ended)
    if contradicted or not may_trust(row, unreachable, key_count, now):
        return unreachable
    (ready,) = successes.values()
    return CallbackResult(ready, unreachable) if ready.available else unreachable
