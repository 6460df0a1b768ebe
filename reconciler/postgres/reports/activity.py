"""What every replica is doing right now, and which generations wait for a turn: what `top` shows.

Replicas report it with each heartbeat (`postgres/heartbeat.py`), every second while `watch` is called again and again.
Rates are computed in `operations/throughput.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from reconciler.domain.transfer import Transfer
from reconciler.postgres.pool import Database
from reconciler.postgres.records import build

MAX_WAITING = 10
"""How many waiting generations are listed."""

WATCHED = timedelta(seconds=30)
"""How long replicas report every second after the last `watch`."""

_WATCH = """
INSERT INTO reconciler.watching (until) VALUES (now() + $1::interval)
ON CONFLICT (single) DO UPDATE SET until = excluded.until
"""

_REPLICAS = """
SELECT i.id AS instance, i.host, i.pid, i.version, i.seen_at AS told_at, i.doing,
       coalesce(l.instance = i.id AND l.until > now(), false) AS leads
  FROM reconciler.instances i LEFT JOIN reconciler.leader l ON true
 WHERE i.seen_at > now() - $1::interval ORDER BY i.started_at, i.id
"""

_KEYS = """
SELECT key_hash, round(extract(epoch FROM greatest(next_at - now(), '0'))::numeric, 3)::float8 AS booked
  FROM reconciler.budget ORDER BY key_hash
"""

_DUE = "w.due_at < now() - interval '1 second' AND (w.lease_until IS NULL OR w.lease_until < now())"

_OVERDUE = f"SELECT count(*) FROM (SELECT FROM reconciler.work w WHERE {_DUE} LIMIT 10000) AS waiting"

_WAITING = f"""
SELECT w.generation_id, w.seen_task AS task_id, w.looks, w.why, w.finding,
       round(extract(epoch FROM now() - w.due_at)::numeric, 1)::float8 AS waited
  FROM reconciler.work w WHERE {_DUE} ORDER BY w.due_at LIMIT {MAX_WAITING}
"""


@dataclass(frozen=True, slots=True)
class ReplicaActivity:
    """What one replica reported at `told_at`; the last four are totals since it began, the last two in bytes."""

    instance: UUID
    host: str
    pid: int
    version: str
    leads: bool
    told_at: datetime
    transfers: tuple[Transfer, ...] = ()
    held: int = 0
    polls: int = 0
    deliveries: int = 0
    downloaded: int = 0
    uploaded: int = 0


@dataclass(frozen=True, slots=True)
class KeyBacklog:
    """One key of KIE, and for how many seconds from now its requests are taken."""

    key_hash: str
    booked: float


@dataclass(frozen=True, slots=True)
class WaitingGeneration:
    """A generation that is due, is held by no replica, and has waited for `waited` seconds."""

    generation_id: str
    task_id: str | None
    waited: float
    looks: int
    why: str | None
    finding: str | None


@dataclass(frozen=True, slots=True)
class ActivitySnapshot:
    """All of it at the database's time `at`; `overdue` stops at 10,000, `waiting` lists the longest waits first."""

    at: datetime
    replicas: tuple[ReplicaActivity, ...]
    keys: tuple[KeyBacklog, ...]
    overdue: int
    waiting: tuple[WaitingGeneration, ...]


class ActivityReader:
    """Reads what replicas report; `alive` is how long a silent replica is still listed."""

    def __init__(self, database: Database, *, alive: timedelta) -> None:
        self._database = database
        self._alive = alive

    async def watch(self) -> None:
        """Let the replicas report every second, from their next heartbeat until WATCHED after this call."""
        await self._database.execute(_WATCH, WATCHED)

    async def look(self) -> ActivitySnapshot:
        """Return the last reports; a replica that is not watched reports every third of a lease."""
        at: datetime = await self._database.value("SELECT now()")
        return ActivitySnapshot(
            at=at,
            replicas=tuple(_replica(row) for row in await self._database.fetch(_REPLICAS, self._alive)),
            keys=tuple(build(KeyBacklog, row) for row in await self._database.fetch(_KEYS)),
            overdue=await self._database.value(_OVERDUE),
            waiting=tuple(build(WaitingGeneration, row) for row in await self._database.fetch(_WAITING)),
        )


def _replica(row: Mapping[str, Any]) -> ReplicaActivity:
    # A replica of another version may report less, or more.
    report = json.loads(row["doing"] or "{}")
    return ReplicaActivity(
        **{name: row[name] for name in ("instance", "host", "pid", "version", "leads", "told_at")},
        transfers=tuple(
            Transfer.from_json(transfer, instance=str(row["instance"])) for transfer in report.get("transfers", ())
        ),
        **{name: report.get(name, 0) for name in ("held", "polls", "deliveries", "downloaded", "uploaded")},
    )
