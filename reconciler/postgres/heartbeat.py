"""Which replicas are alive, and which of them leads for now.

The leader draws the table-wide figures, learns the pace and deletes what is too old: all of it harmless when done
twice, so one lease row is enough. Called by the rounds.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from reconciler import __version__
from reconciler.postgres.pool import Database

_BEAT = """
INSERT INTO reconciler.instances (id, host, pid, version, doing) VALUES ($1, $2, $3, $4, $5::jsonb)
ON CONFLICT (id) DO UPDATE SET seen_at = now(), doing = excluded.doing
RETURNING EXISTS (SELECT FROM reconciler.watching WHERE until > now())
"""

_LEAD = """
INSERT INTO reconciler.leader AS l (instance, until) VALUES ($1, now() + $2::interval)
ON CONFLICT (single) DO UPDATE SET instance = excluded.instance, until = excluded.until
 WHERE l.instance = excluded.instance OR l.until < now() OR l.until > now() + 2 * $2::interval
RETURNING true
"""


class Heartbeat:
    """This instance among the others; `term` is the leader's lease in seconds."""

    def __init__(self, database: Database, instance: UUID, *, term: float) -> None:
        self._database = database
        self._instance = instance
        self._term = timedelta(seconds=term)

    async def beat(self, doing: Mapping[str, object]) -> bool:
        """Tell the others that this instance is alive and what it is doing; whether somebody watches."""
        who = (self._instance, socket.gethostname(), os.getpid(), __version__)
        return await self._database.value(_BEAT, *who, json.dumps(doing)) is True

    async def lead(self) -> bool:
        """Take or keep the lead; whether it is ours for one term from now."""
        return await self._database.value(_LEAD, self._instance, self._term) is True

    async def leave(self) -> None:
        """Step down and be gone, so that a successor need not wait for a term to end."""
        await self._database.execute("DELETE FROM reconciler.leader WHERE instance = $1", self._instance)
        await self._database.execute("DELETE FROM reconciler.instances WHERE id = $1", self._instance)
