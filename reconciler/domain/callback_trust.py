"""When a callback's payload counts: KIE cannot be asked, for long enough, and every callback of the task agrees.

KIE signs a callback's task id and its time, not what it says; so a payload is a hint, and the record is the word. Pure;
the visit gathers the claims and asks here, and nobody else believes a payload.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.domain.model import CallbackResult, Failed, Observation, Ready, Row, Unreachable

LOOKS = 3
"""So many looks in a row must have found KIE out of reach, the last one included."""

_REJECTED = frozenset({"unauthorized", "key_missing"})
_ANSWERED = frozenset({"unknown_state", "bad_result", "failed_without_record"})
"""KIE did speak about the task, in words that nobody understands: that may contradict the payload."""


def payload_counts(row: Row, seen: Unreachable, keys: int) -> bool:
    """Whether callbacks may be listened to; `row` has not absorbed `seen` yet."""
    if not seen.asked or seen.reason in _ANSWERED:
        return False
    # An answer that KIE does not know the task is a miss, too, and no sign that it is out of reach.
    # Another key of the ring may be the one that made the task, and KIE can be asked with it.
    rejected = seen.reason in _REJECTED and (row.acknowledged_at is not None or row.unknowns + 1 >= keys)
    return rejected or row.failures - row.unknowns >= LOOKS - 1


def believed(row: Row, seen: Unreachable, claims: Iterable[Observation], keys: int) -> CallbackResult | Unreachable:
    """Return the success that the claims agree on, else what was seen: a failure needs KIE's own word."""
    ended = [claim for claim in claims if isinstance(claim, Ready | Failed)]
    told = {claim.sources for claim in ended if isinstance(claim, Ready)}
    if not payload_counts(row, seen, keys) or len(told) != 1 or any(isinstance(claim, Failed) for claim in ended):
        return seen
    said = next(claim for claim in ended if isinstance(claim, Ready))
    return CallbackResult(said, seen) if said.sources else seen
