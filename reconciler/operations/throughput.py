"""What moves right now, with rates: computed from the last two reports of each replica.

No I/O. The command `top` feeds it with snapshots of `postgres/reports/activity.py` and shows the result.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from reconciler.domain.transfer import Transfer
from reconciler.postgres.reports.activity import ActivitySnapshot, KeyBacklog, ReplicaActivity, WaitingGeneration


@dataclass(frozen=True, slots=True)
class ReplicaRates:
    """One replica, with its rates between its last two reports; they are None before there are two."""

    instance: UUID
    host: str
    pid: int
    version: str
    leads: bool
    told_at: datetime
    held: int
    polls_per_second: float | None
    deliveries_per_second: float | None
    downloaded_per_second: float | None
    uploaded_per_second: float | None


@dataclass(frozen=True, slots=True)
class Throughput:
    """All that moves and waits at one moment, as `top --json` prints it; `overdue` stops at 10,000."""

    at: datetime
    replicas: tuple[ReplicaRates, ...]
    transfers: tuple[Transfer, ...]
    keys: tuple[KeyBacklog, ...]
    overdue: int
    waiting: tuple[WaitingGeneration, ...]


class ThroughputMeter:
    """Remembers the last two reports of each replica."""

    def __init__(self) -> None:
        self._reports: dict[UUID, tuple[ReplicaActivity | None, ReplicaActivity]] = {}

    def at(self, snapshot: ActivitySnapshot) -> Throughput:
        """Return a snapshot with its rates; a replica without a new report keeps its rates."""
        self._reports = {replica.instance: self._last_two(replica) for replica in snapshot.replicas}
        return Throughput(
            at=snapshot.at,
            replicas=tuple(_rates(before, last) for before, last in self._reports.values()),
            transfers=tuple(
                transfer for before, last in self._reports.values() for transfer in _transfers(before, last)
            ),
            keys=snapshot.keys,
            overdue=snapshot.overdue,
            waiting=snapshot.waiting,
        )

    def _last_two(self, replica: ReplicaActivity) -> tuple[ReplicaActivity | None, ReplicaActivity]:
        before, last = self._reports.get(replica.instance, (None, replica))
        return (last if replica.told_at > last.told_at else before), replica


def _rates(before: ReplicaActivity | None, last: ReplicaActivity) -> ReplicaRates:
    def rate(total: str) -> Any:
        if before is None:
            return None
        return round((getattr(last, total) - getattr(before, total)) / _interval(before, last), 2)

    return ReplicaRates(
        **{name: getattr(last, name) for name in ("instance", "host", "pid", "version", "leads", "told_at", "held")},
        **{f"{total}_per_second": rate(total) for total in ("polls", "deliveries", "downloaded", "uploaded")},
    )


def _transfers(before: ReplicaActivity | None, last: ReplicaActivity) -> list[Transfer]:
    if before is None:
        return [transfer.measured((), 0.0) for transfer in last.transfers]
    return [transfer.measured(before.transfers, _interval(before, last)) for transfer in last.transfers]


def _interval(before: ReplicaActivity, last: ReplicaActivity) -> float:
    return (last.told_at - before.told_at).total_seconds()
