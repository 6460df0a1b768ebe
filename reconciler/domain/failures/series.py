"""The failures of a generation that came in a row, counted for KIE's API, its results' source and our storage apart.

A series ends when its own side works, and goes on while another side fails: so a failed upload never makes KIE look
silent. Pure. `absorb` keeps the series in the row; `findings` reads the sums over all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

from reconciler.domain.failures.party import Party

Side = Literal["kie", "source", "storage"]

SIDES: Mapping[Party, Side] = MappingProxyType(
    {
        Party.KIE_API: "kie",
        Party.KIE_FILES: "source",
        Party.RESULT_HOST: "source",
        Party.STORAGE: "storage",
    }
)
"""The sides that are asked again and again, by party; failures of the other parties make no series."""

SEVERAL = 3
"""From so many failures in a row on a series counts: one failure, or two, is everyday life."""

_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class FailureSeries:
    """The failures in a row at one side: how many, since when, and the sentence of the last one."""

    side: Side
    count: int
    since: datetime
    reason: str


def extend(
    known: Sequence[FailureSeries], side: Side, reason: str, now: datetime, *, at_least: int = 1
) -> tuple[FailureSeries, ...]:
    """Return the series with one more failure at this side, which then has at least `at_least`."""
    before = next((one for one in known if one.side == side), FailureSeries(side, 0, now, ""))
    after = replace(before, count=max(before.count + 1, at_least), reason=reason[:_LONGEST_REASON].rstrip())
    return (*end(known, side), after)


def end(known: Sequence[FailureSeries], *sides: Side) -> tuple[FailureSeries, ...]:
    """Return the series without those of these sides, which have worked."""
    return tuple(one for one in known if one.side not in sides)


def to_json(known: Sequence[FailureSeries]) -> Mapping[str, Mapping[str, object]]:
    """Return what the database keeps, by side."""
    return {one.side: {"count": one.count, "since": one.since.isoformat(), "reason": one.reason} for one in known}


def from_json(kept: Mapping[str, Mapping[str, Any]], now: datetime) -> tuple[FailureSeries, ...]:
    """Return the series that the database keeps; a beginning after `now` was written by a clock that jumped."""
    sides = set(SIDES.values())
    return tuple(
        FailureSeries(side, one["count"], min(datetime.fromisoformat(one["since"]), now), one["reason"])
        for side, one in kept.items()
        if side in sides
    )
