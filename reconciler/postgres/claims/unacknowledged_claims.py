"""Claims whose answer did not come: the server, or the line, died between making them and telling.

Their rows are held by this instance, which does not know it and so neither visits nor renews them; they would wait for
the end of a lease. `claims` sends what it sends through here, `work` settles the doubts.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import structlog

from reconciler.errors import Transient
from reconciler.postgres.pool import Database

log = structlog.get_logger()

KNOWN = 3.0
"""Seconds within which whoever made a claim knows it: only older ones are nobody's."""

# Only rows that will be looked at again have a due time, and they alone are in its index.
_DISOWN = """
WITH orphans AS (
    SELECT generation_id FROM reconciler.work
     WHERE due_at IS NOT NULL AND instance = $1 AND lease <> ALL($2)
       AND lease_until < now() + $3::interval - $4 * interval '1 second'
    FOR UPDATE SKIP LOCKED)
UPDATE reconciler.work w
   SET lease = NULL, lease_until = NULL, due_at = least(due_at, clock_timestamp())
  FROM orphans WHERE w.generation_id = orphans.generation_id RETURNING w.generation_id
"""


class UnacknowledgedClaims:
    """The doubts of one instance; `term` is a lease's length in seconds."""

    def __init__(self, database: Database, instance: uuid.UUID, term: float) -> None:
        self._database = database
        self._instance = instance
        self._term = timedelta(seconds=term)
        self._since: float | None = None

    @property
    def open(self) -> bool:
        """Whether a claim may have been made that nobody knows of."""
        return self._since is not None

    async def claimed(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Send a claim and return its rows."""
        try:
            return await self._database.fetch(sql, *args)
        except Transient:
            self._since = time.monotonic()
            raise

    async def settle(self, known: Sequence[uuid.UUID]) -> None:
        """Free what was claimed and is none of the `known` leases, once every claim that was answered is known."""
        if self._since is None or time.monotonic() - self._since < KNOWN:
            return
        settled = self._since
        freed = await self._database.fetch(_DISOWN, self._instance, list(known), self._term, KNOWN)
        if self._since == settled:
            # Else another claim has gone unanswered meanwhile.
            self._since = None
        if freed:
            log.info("claims.disowned", generations=len(freed))
