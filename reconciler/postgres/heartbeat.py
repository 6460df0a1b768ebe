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
from reconciler.postgres.migrations.schema_level import LEVEL, REQUIRED_VERSION
from reconciler.postgres.pool import Database
from reconciler.postgres.statement import Statement

# Writes that this instance is alive and its activity; returns whether a `top` is watching, and the version that the
# database requires where this one is too old for it.
_BEAT = Statement(f"""
INSERT INTO reconciler.instances (id, host, pid, version, level, doing)
VALUES (:instance, :host, :pid, :version, {LEVEL}, :activity::jsonb)
ON CONFLICT (id) DO UPDATE SET seen_at = now(), doing = excluded.doing
RETURNING EXISTS (SELECT FROM reconciler.watching WHERE until > now()) AS watched,
          ({REQUIRED_VERSION}) AS required_version""")

# Takes or prolongs the leader's lease where it is ours or has ended; returns a row where we lead. A lease of more than
# two terms was drawn by a clock that jumped.
_LEAD = Statement("""
INSERT INTO reconciler.leader AS l (instance, until) VALUES (:instance, now() + :term::interval)
ON CONFLICT (single) DO UPDATE SET instance = excluded.instance, until = excluded.until
 WHERE l.instance = excluded.instance OR l.until < now() OR l.until > now() + :term::interval + :term::interval
RETURNING true""")


@dataclass(frozen=True, slots=True)
class HeartbeatResult:
    """What a heartbeat learns: whether a `top` is watching, and the version that may run where this one may not."""

    watched: bool
    required_version: str | None


class Heartbeat:
    """This instance among the others; `term` is the leader's lease in seconds."""

    def __init__(self, database: Database, instance: UUID, *, term: float) -> None:
        self._database = database
        self._instance = instance
        self._term = timedelta(seconds=term)

    async def beat(self, activity: Mapping[str, object]) -> HeartbeatResult:
        """Write that this instance is alive, and its activity."""
        process = {"host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
        statement = _BEAT(instance=self._instance, activity=json.dumps(activity), **process)
        row = await self._database.row(*statement)
        assert row is not None
        return HeartbeatResult(row["watched"], row["required_version"])

    async def lead(self) -> bool:
        """Take or keep the lead; return whether this instance leads for one term from now."""
        return await self._database.value(*_LEAD(instance=self._instance, term=self._term)) is True

    async def leave(self) -> None:
        """Step down and sign off, so that a successor does not wait for the end of a term."""
        await self._database.execute("DELETE FROM reconciler.leader WHERE instance = $1", self._instance)
        await self._database.execute("DELETE FROM reconciler.instances WHERE id = $1", self._instance)
