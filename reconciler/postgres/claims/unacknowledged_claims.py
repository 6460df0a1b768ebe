"""Claims whose answer did not come: the server, or the connection, died between the claim and its answer.

Their rows are held by this instance, which does not know it: it neither visits nor renews them, and they would wait for
the end of a lease. `claims` sends its claims through here; the worker frees what nobody acknowledged.
"""

import time
import uuid
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import structlog

from reconciler.errors import Transient
from reconciler.postgres.pool import Database
from reconciler.postgres.statement import Statement

log = structlog.get_logger()

KNOWN = 3.0
"""Seconds after which the worker holds every claim that was answered; an older one that it does not hold is lost."""

# Reads the leases of :instance that are none of :known and older than :age seconds; ends them and makes their rows
# due; returns the ids. Only rows that will be visited again have a due time, and they alone are in its index.
_FREE_UNKNOWN = Statement("""
WITH unknown AS (
    SELECT generation_id FROM reconciler.work
     WHERE due_at IS NOT NULL AND instance = :instance AND lease <> ALL(:known)
       AND lease_until < now() + :term::interval - :age::float8 * interval '1 second'
    FOR UPDATE SKIP LOCKED)
UPDATE reconciler.work w
   SET lease = NULL, lease_until = NULL, due_at = least(due_at, clock_timestamp())
  FROM unknown WHERE w.generation_id = unknown.generation_id RETURNING w.generation_id""")


class UnacknowledgedClaims:
    """The unacknowledged claims of one instance; `term` is a lease's length in seconds."""

    def __init__(self, database: Database, instance: uuid.UUID, term: float) -> None:
        self._database = database
        self._instance = instance
        self._term = timedelta(seconds=term)
        self._since: float | None = None

    @property
    def open(self) -> bool:
        """Whether the database may hold a claim of ours whose answer did not come."""
        return self._since is not None

    async def claimed(self, statement: Statement, **values: object) -> list[asyncpg.Record]:
        """Send a claim and return its rows; Transient where its answer did not come."""
        try:
            return await self._database.fetch(*statement(**values))
        except Transient:
            self._since = time.monotonic()
            raise

    async def settle(self, known: Sequence[uuid.UUID]) -> None:
        """Free our claims that are none of the `known` leases, once every claim that was answered is known."""
        if self._since is None or time.monotonic() - self._since < KNOWN:
            return
        settled = self._since
        freed = await self._database.fetch(
            *_FREE_UNKNOWN(instance=self._instance, known=list(known), term=self._term, age=KNOWN)
        )
        if self._since == settled:
            # Otherwise the answer of another claim has failed to come meanwhile.
            self._since = None
        if freed:
            log.info("claims.disowned", generations=len(freed))
