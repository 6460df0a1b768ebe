"""Which replicas are alive, and which of them leads.

The leader reads the table-wide figures, learns how long tasks take and deletes what is too old. None of that does harm
when two replicas do it, so one lease row is enough. The scheduler calls it.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from reconciler import __version__
from reconciler.postgres.clock import READ_CLOCK, STEP, DatabaseClock, mark_of
from reconciler.postgres.migrations.schema_level import LEVEL, REQUIRED_VERSION
from reconciler.postgres.pool import Database
from reconciler.postgres.statement import Statement

_LONGEST_WATCH = "interval '5 minutes'"

# Writes that this instance is alive and its activity, and that the clock was seen; as a mark that it is steady only
# where :trusted_now, the time by this machine's uptime, agrees. Returns whether a `top` is watching, the version that
# the database requires where this one is too old for it, and what the clock's row said before.
_BEAT = Statement(f"""
WITH seen AS (
    INSERT INTO reconciler.clock AS c (seen_at, steady_at)
    SELECT now(), CASE WHEN now() BETWEEN :trusted_now::timestamptz - interval '{STEP} seconds'
                                      AND :trusted_now::timestamptz + interval '{STEP} seconds' THEN now() END
    ON CONFLICT (single) DO UPDATE SET seen_at = now(), steady_at = coalesce(excluded.steady_at, c.steady_at))
INSERT INTO reconciler.instances (id, host, pid, version, level, doing)
VALUES (:instance, :host, :pid, :version, {LEVEL}, :activity::jsonb)
ON CONFLICT (id) DO UPDATE SET seen_at = now(), doing = excluded.doing
RETURNING EXISTS (SELECT FROM reconciler.watching WHERE until > now() AND until < now() + {_LONGEST_WATCH}) AS watched,
          ({REQUIRED_VERSION}) AS required_version, now() AS now, {READ_CLOCK},
          (SELECT extract(epoch FROM seen_at - now())::float8 FROM reconciler.clock) AS clock_behind""")

# Takes or prolongs the leader's lease where it is ours or has ended; returns a row where we lead. A lease of more than
# two terms was drawn by a clock that jumped.
_LEAD = Statement("""
INSERT INTO reconciler.leader AS l (instance, until) VALUES (:instance, now() + :term::interval)
ON CONFLICT (single) DO UPDATE SET instance = excluded.instance, until = excluded.until
 WHERE l.instance = excluded.instance OR l.until < now() OR l.until > now() + :term::interval + :term::interval
RETURNING true""")


@dataclass(frozen=True, slots=True)
class HeartbeatResult:
    """What a heartbeat learns: whether a `top` is watching, and the version that may run where this one may not.

    `clock_behind` is by how many seconds the database's clock is behind the last heartbeat of any instance: above zero
    only where it was set back since.
    """

    watched: bool
    required_version: str | None
    clock_behind: float = 0.0


class Heartbeat:
    """This instance among the others; `term` is the leader's lease in seconds, `clock` is told the time of a beat."""

    def __init__(self, database: Database, instance: UUID, *, term: float, clock: DatabaseClock | None = None) -> None:
        self._database = database
        self._instance = instance
        self._term = timedelta(seconds=term)
        self._clock = clock or DatabaseClock()

    async def beat(self, activity: Mapping[str, object]) -> HeartbeatResult:
        """Write that this instance is alive, and its activity."""
        process = {"host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
        values = {"instance": self._instance, "activity": json.dumps(activity), **process}
        asked_at = self._clock.uptime
        row = await self._database.row(*_BEAT(trusted_now=self._clock.trusted_now(), **values))
        assert row is not None
        self._clock.observe(row["now"], asked_at=asked_at, mark=mark_of(row))
        return HeartbeatResult(row["watched"], row["required_version"], max(row["clock_behind"] or 0.0, 0.0))

    async def settle_clock(self, behind: float) -> bool:
        """Write down and make up for a step of the database's clock that was noticed; return whether it was set back.

        `behind` is what a heartbeat said of the time before this process looked.
        """
        return await self._clock.settle(self._database, behind=behind)

    async def lead(self) -> bool:
        """Take or keep the lead; return whether this instance leads for one term from now."""
        return await self._database.value(*_LEAD(instance=self._instance, term=self._term)) is True

    async def leave(self) -> None:
        """Step down and sign off, so that a successor does not wait for the end of a term."""
        await self._database.execute("DELETE FROM reconciler.leader WHERE instance = $1", self._instance)
        await self._database.execute("DELETE FROM reconciler.instances WHERE id = $1", self._instance)
