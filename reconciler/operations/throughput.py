"""What moves, with rates: made of two moments that the replicas told, one after the other.

No I/O and no looks; `live.py` shows it, the command `top` feeds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from reconciler.postgres.reports.activity import (
    ActiveTransfer,
    ActivitySnapshot,
    KeyBacklog,
    ReplicaActivity,
    WaitingGeneration,
)


@dataclass(frozen=True, slots=True)
class ReplicaRates:
    """One replica; what it did a second between its last two words, None before there are two."""

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
class TransferView:
    """One source on its way; bytes, and bytes a second, None where that cannot be said yet."""

    instance: UUID
    generation_id: str
    n: int
    stage: str
    done: int
    total: int | None
    seconds: float
    bytes_per_second: float | None


@dataclass(frozen=True, slots=True)
class Throughput:
    """All that moves and waits at one moment, as `top --json` prints it; `overdue` stops at 10,000."""

    at: datetime
    replicas: tuple[ReplicaRates, ...]
    transfers: tuple[TransferView, ...]
    keys: tuple[KeyBacklog, ...]
    overdue: int
    waiting: tuple[WaitingGeneration, ...]


class ThroughputMeter:
    """Remembers of each replica the word before its last."""

    def __init__(self) -> None:
        self._words: dict[UUID, tuple[ReplicaActivity | None, ReplicaActivity]] = {}

    def at(self, moment: ActivitySnapshot) -> Throughput:
        """Return a moment with its rates; a replica that has said nothing new keeps those it had."""
        self._words = {replica.instance: self._word(replica) for replica in moment.replicas}
        return Throughput(
            at=moment.at,
            replicas=tuple(_rates(*word) for word in self._words.values()),
            transfers=tuple(_transfer(*word, one) for word in self._words.values() for one in word[1].transfers),
            keys=moment.keys,
            overdue=moment.overdue,
            waiting=moment.waiting,
        )

    def _word(self, replica: ReplicaActivity) -> tuple[ReplicaActivity | None, ReplicaActivity]:
        before, last = self._words.get(replica.instance, (None, replica))
        return (last if replica.told_at > last.told_at else before), replica


def _rates(before: ReplicaActivity | None, last: ReplicaActivity) -> ReplicaRates:
    def rate(count: int, was: int) -> float | None:
        return None if before is None else round((count - was) / _between(before, last), 2)

    was = before or last
    return ReplicaRates(
        instance=last.instance,
        host=last.host,
        pid=last.pid,
        version=last.version,
        leads=last.leads,
        told_at=last.told_at,
        held=last.held,
        polls_per_second=rate(last.polls, was.polls),
        deliveries_per_second=rate(last.deliveries, was.deliveries),
        downloaded_per_second=rate(last.downloaded, was.downloaded),
        uploaded_per_second=rate(last.uploaded, was.uploaded),
    )


def _transfer(before: ReplicaActivity | None, last: ReplicaActivity, one: ActiveTransfer) -> TransferView:
    return TransferView(
        instance=last.instance,
        generation_id=one.generation_id,
        n=one.n,
        stage=one.stage,
        done=one.done,
        total=one.total,
        seconds=one.seconds,
        bytes_per_second=_rate(before, last, one),
    )


def _rate(before: ReplicaActivity | None, last: ReplicaActivity, one: ActiveTransfer) -> float | None:
    """Since the word before where the same stage was under way then, else since the stage began."""
    if before is not None:
        for was in before.transfers:
            same = (was.generation_id, was.n, was.stage) == (one.generation_id, one.n, one.stage)
            if same and was.seconds < one.seconds and was.done <= one.done:
                return round((one.done - was.done) / _between(before, last), 1)
    return round(one.done / one.seconds, 1) if one.seconds > 0 else None


def _between(before: ReplicaActivity, last: ReplicaActivity) -> float:
    return (last.told_at - before.told_at).total_seconds()
