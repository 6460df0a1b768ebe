"""What the replicas say they are doing right now, and who waits for his turn: what `top` shows.

Replicas tell it with their presence (`presence.py`), oftener while somebody watches, which is written down here. Rates
and their looks are made by the doors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from reconciler.postgres.pool import Database
from reconciler.postgres.records import build

LONGEST = 10
"""How many of those who wait are named."""

TERM = timedelta(seconds=30)
"""How long the replicas go on telling after the last look."""

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
  FROM reconciler.work w WHERE {_DUE} ORDER BY w.due_at LIMIT {LONGEST}
"""


@dataclass(frozen=True, slots=True)
class ActiveTransfer:
    """One source on its way; `stage` is fetch, store or prove and has lasted `seconds`; bytes, `total` None unknown."""

    generation_id: str
    n: int
    stage: str
    done: int
    total: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ReplicaActivity:
    """What one instance said at `told_at`; the last four count from its beginning, the last two of them bytes."""

    instance: UUID
    host: str
    pid: int
    version: str
    leads: bool
    told_at: datetime
    transfers: tuple[ActiveTransfer, ...] = ()
    held: int = 0
    polls: int = 0
    deliveries: int = 0
    downloaded: int = 0
    uploaded: int = 0


@dataclass(frozen=True, slots=True)
class KeyBacklog:
    """One key of KIE's: for how many seconds from now its requests are given away."""

    key_hash: str
    booked: float


@dataclass(frozen=True, slots=True)
class WaitingGeneration:
    """A generation that is due, in nobody's hands, and has `waited` so many seconds for its turn."""

    generation_id: str
    task_id: str | None
    waited: float
    looks: int
    why: str | None
    finding: str | None


@dataclass(frozen=True, slots=True)
class ActivitySnapshot:
    """All of it at the database's time; `overdue` stops at 10,000, `waiting` are those who have waited longest."""

    at: datetime
    replicas: tuple[ReplicaActivity, ...]
    keys: tuple[KeyBacklog, ...]
    overdue: int
    waiting: tuple[WaitingGeneration, ...]


class ActivityReader:
    """Looks at what moves; `alive` is how long a silent replica counts."""

    def __init__(self, database: Database, *, alive: timedelta) -> None:
        self._database = database
        self._alive = alive

    async def watch(self) -> None:
        """Let the replicas tell every second, from their next presence on and for TERM after this call."""
        await self._database.execute(_WATCH, TERM)

    async def look(self) -> ActivitySnapshot:
        """Return what was told last; a replica that nobody watches tells every third of a lease."""
        at: datetime = await self._database.value("SELECT now()")
        return ActivitySnapshot(
            at=at,
            replicas=tuple(_replica(row) for row in await self._database.fetch(_REPLICAS, self._alive)),
            keys=tuple(build(KeyBacklog, row) for row in await self._database.fetch(_KEYS)),
            overdue=await self._database.value(_OVERDUE),
            waiting=tuple(build(WaitingGeneration, row) for row in await self._database.fetch(_WAITING)),
        )


def _replica(row: Mapping[str, Any]) -> ReplicaActivity:
    # An instance of another version may tell less, or more.
    told = json.loads(row["doing"] or "{}")
    counted = {name: told.get(name, 0) for name in ("held", "polls", "deliveries", "downloaded", "uploaded")}
    return ReplicaActivity(
        **{name: row[name] for name in ("instance", "host", "pid", "version", "leads", "told_at")},
        transfers=tuple(build(ActiveTransfer, one) for one in told.get("transfers", ())),
        **counted,
    )
