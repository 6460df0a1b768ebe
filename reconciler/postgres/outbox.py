"""The outbox: which events are sent next, and what became of sending them.

The ledger writes an event in the statement that ends a generation. Here an event is claimed, and marked after it was
sent. No leader is needed and no lock outlives a statement: a claim is a time until which other senders leave the event
alone. `webhooks/client.py` sends, `webhooks/sender.py` says when.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.postgres.pool import ASYNC_COMMIT, Database
from reconciler.postgres.records import build
from reconciler.postgres.statement import Statement

TERM = timedelta(seconds=60)
"""For how long a claimed event belongs to its sender; sending must take less."""

PATIENCE = "3 days"
LEAST_TRIES = 10
"""An event is given up at this age, but never before this many tries: it may be sent again by hand, or be found old by
a daemon that was away."""

# Claims the oldest :limit due events until :term from now and returns them. An event waits for every earlier one of its
# generation that is neither sent nor given up. A sender that claims it meanwhile moves `next_at`, which is compared
# again under the lock.
_TAKE = Statement(f"""
WITH head AS MATERIALIZED (
    SELECT e.id FROM reconciler.events e
     WHERE e.announced_at IS NULL AND e.dead_at IS NULL AND coalesce(e.next_at, '-infinity') <= now()
       AND NOT EXISTS (SELECT FROM reconciler.events b
                        WHERE b.generation_id = e.generation_id AND b.id < e.id
                          AND b.announced_at IS NULL AND b.dead_at IS NULL)
     ORDER BY coalesce(e.next_at, '-infinity'), e.id LIMIT :limit FOR UPDATE OF e SKIP LOCKED)
UPDATE reconciler.events e SET next_at = now() + :term::interval, tries = e.tries + 1
  FROM head WHERE e.id = head.id
RETURNING e.id, e.key, e.generation_id, e.kind, e.payload, e.at, e.tries, e.next_at AS until, {ASYNC_COMMIT}""")

# Marks an event as sent, even where its claim has run out: it was sent all the same.
_SENT = Statement(f"""
UPDATE reconciler.events SET announced_at = now(), next_at = NULL, trouble = NULL
 WHERE id = :id AND announced_at IS NULL RETURNING {ASYNC_COMMIT}""")

# Writes why an event was not sent and when it is tried again, where our claim :until still stands; returns whether it
# is given up: at its age by the database's clock and by :trusted_now, which is null while that clock is not trusted.
_NOT_SENT = Statement(f"""
UPDATE reconciler.events
   SET trouble = :trouble, next_at = now() + :pause::interval,
       dead_at = CASE WHEN :last OR (at < now() - interval '{PATIENCE}' AND tries >= {LEAST_TRIES}
                                        AND at < :trusted_now::timestamptz - interval '{PATIENCE}') THEN now() END
 WHERE id = :id AND next_at = :until AND announced_at IS NULL
RETURNING dead_at IS NOT NULL AS dead, {ASYNC_COMMIT}""")

# Ends the claims on :ids where they still stand.
_RELEASE = Statement("""
UPDATE reconciler.events e SET next_at = NULL
  FROM unnest(:ids::bigint[], :untils::timestamptz[]) AS mine (id, until)
 WHERE e.id = mine.id AND e.next_at = mine.until AND e.announced_at IS NULL""")


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """One event that we have claimed until `until`, the database's time; `tries` counts this one."""

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
        """The id by which receivers know a repetition: the same at every try, and different for every other event."""
        return "evt_" + hashlib.sha256(f"{self.id}|{self.key}".encode()).hexdigest()[:32]

    @property
    def task_id(self) -> str | None:
        """The task of the event, where there is one."""
        task_id = self.payload.get("task_id")
        return None if task_id is None else str(task_id)


class Outbox:
    """Events that are to be sent; every method is one statement.

    `trusted_now` returns the database's time where that clock is trusted, else None: then no event is given up by age.
    """

    def __init__(
        self, database: Database, trusted_now: Callable[[], datetime | None] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._trusted_now = trusted_now

    async def take(self, count: int) -> list[OutboxEvent]:
        """Claim up to `count` events that are due, at most one of each generation, the oldest first."""
        rows = await self._database.fetch(*_TAKE(limit=count, term=TERM))
        events = (build(OutboxEvent, {**row, "payload": json.loads(row["payload"])}) for row in rows)
        return sorted(events, key=lambda event: event.id)

    async def mark_sent(self, event: OutboxEvent) -> None:
        """Mark the event as sent."""
        await self._database.execute(*_SENT(id=event.id))

    async def mark_failed(self, event: OutboxEvent, trouble: str, *, wait: float, last: bool = False) -> bool:
        """Try again in `wait` seconds, or give up where the event is too old or this was the `last` try.

        Returns whether it is given up. `trouble` is a word for why. Nothing changes where the claim has run out and
        another sender has the event.
        """
        pause = timedelta(seconds=wait)
        statement = _NOT_SENT(
            id=event.id, until=event.until, trouble=trouble, pause=pause, last=last, trusted_now=self._trusted_now()
        )
        row = await self._database.row(*statement)
        return row is not None and bool(row["dead"])

    async def release(self, events: Sequence[OutboxEvent]) -> None:
        """End these claims, so that the next sender can take the events at once."""
        ids, untils = [event.id for event in events], [event.until for event in events]
        await self._database.execute(*_RELEASE(ids=ids, untils=untils))
