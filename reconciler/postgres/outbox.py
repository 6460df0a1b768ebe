"""The outbox: which events are to be told next, and what became of telling them.

The ledger writes an event in the statement that ends a generation; here one is claimed, told by whoever claimed it, and
marked. No leader and no lock outlives a statement: a claim is a time until which others leave the event alone. Sending
is `announce.py`, when to send is `webhooks/sender.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reconciler.postgres.pool import SOON, Database

TERM = timedelta(seconds=60)
"""For so long a claimed event is nobody else's; telling must take less."""

PATIENCE = timedelta(days=3)
LEAST_TRIES = 10
"""An event is given up at this age, but never before it was tried so often: it may be sent again by hand, or be found
old by a daemon that was away."""

# An event waits for every earlier one of its generation that is neither told nor given up. Who claims it meanwhile
# moves `next_at`, which is looked at again under the lock.
_TAKE = f"""
WITH head AS MATERIALIZED (
    SELECT e.id FROM reconciler.events e
     WHERE e.announced_at IS NULL AND e.dead_at IS NULL AND coalesce(e.next_at, '-infinity') <= now()
       AND NOT EXISTS (SELECT FROM reconciler.events b
                        WHERE b.generation_id = e.generation_id AND b.id < e.id
                          AND b.announced_at IS NULL AND b.dead_at IS NULL)
     ORDER BY coalesce(e.next_at, '-infinity'), e.id LIMIT $1 FOR UPDATE OF e SKIP LOCKED)
UPDATE reconciler.events e SET next_at = now() + $2::interval, tries = e.tries + 1
  FROM head WHERE e.id = head.id
RETURNING e.id, e.key, e.generation_id, e.kind, e.payload, e.at, e.tries, e.next_at AS until, {SOON}"""

# Told is told, whoever holds the claim by now.
_TOLD = f"""
UPDATE reconciler.events SET announced_at = now(), next_at = NULL, trouble = NULL
 WHERE id = $1 AND announced_at IS NULL RETURNING {SOON}"""

_NOT_TOLD = f"""
UPDATE reconciler.events
   SET trouble = $3, next_at = now() + $4::interval,
       dead_at = CASE WHEN $5 OR (at < now() - $6::interval AND tries >= $7) THEN now() END
 WHERE id = $1 AND next_at = $2 AND announced_at IS NULL
RETURNING dead_at IS NOT NULL AS dead, {SOON}"""

_RELEASE = """
UPDATE reconciler.events e SET next_at = NULL
  FROM unnest($1::bigint[], $2::timestamptz[]) AS mine (id, until)
 WHERE e.id = mine.id AND e.next_at = mine.until AND e.announced_at IS NULL"""


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """One event in our hands until `until`, the database's time; `tries` counts this one."""

    id: int
    key: str
    generation_id: str
    kind: str
    payload: Mapping[str, Any]
    at: datetime
    tries: int
    until: datetime

    @property
    def webhook_id(self) -> str:
        """What receivers know a repetition by: the same at every try, and never that of another event."""
        return "evt_" + hashlib.sha256(f"{self.id}|{self.key}".encode()).hexdigest()[:32]

    @property
    def task_id(self) -> str | None:
        """The task it is about, where there is one."""
        task_id = self.payload.get("task_id")
        return None if task_id is None else str(task_id)


class Outbox:
    """Events that somebody is to be told; every method is one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, count: int) -> list[OutboxEvent]:
        """Claim up to so many events that are due, at most one of each generation, the oldest first."""
        rows = await self._database.fetch(_TAKE, count, TERM)
        return sorted((_event(row) for row in rows), key=lambda event: event.id)

    async def told(self, event: OutboxEvent) -> None:
        """Mark it as told."""
        await self._database.execute(_TOLD, event.id)

    async def not_told(self, event: OutboxEvent, trouble: str, *, wait: float, last: bool = False) -> bool:
        """Try again in `wait` seconds, or never where it is too old or this was the `last`; whether it is given up.

        `trouble` is a word for why. Nothing changes where the claim has run out and somebody else has it.
        """
        pause = timedelta(seconds=wait)
        row = await self._database.row(_NOT_TOLD, event.id, event.until, trouble, pause, last, PATIENCE, LEAST_TRIES)
        return row is not None and bool(row["dead"])

    async def release(self, events: Sequence[OutboxEvent]) -> None:
        """Give claims back at once: whoever comes next tells them."""
        await self._database.execute(_RELEASE, [event.id for event in events], [event.until for event in events])


def _event(row: Mapping[str, Any]) -> OutboxEvent:
    return OutboxEvent(
        id=row["id"],
        key=row["key"],
        generation_id=row["generation_id"],
        kind=row["kind"],
        payload=json.loads(row["payload"]),
        at=row["at"],
        tries=row["tries"],
        until=row["until"],
    )
