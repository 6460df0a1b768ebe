"""What has happened to generations, as it is told to whoever has a stream open: the state of rows, and missed events.

Nothing here writes. An event always tells how its row stands now, not how it stood then: one told twice, late or out of
turn never takes a page back to an older state. Called by the hub and by the events door.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from reconciler.postgres.pool import Database
from reconciler.postgres.reports.generation_details import as_key, built
from reconciler.postgres.schema import TableShape

OVERLAP = 100
"""Ids before the last one seen that are told once more.

An id is drawn before its statement commits, so an event may become visible after one with a higher id. Every replica
has a handful of such statements under way at once, mostly a matter of milliseconds.
"""

LONGEST = "90 seconds"
"""Whose transaction began so long before the last one seen is told again, too: a hook or a trigger of the application's
may hold an event back for as long as its statements may take, while any number of others overtake it."""

MOST = 500
"""Events told one by one to somebody who comes back; whoever missed more fetches the list."""

FARTHEST = 10_000
"""How many ids are looked through for those of one user: somebody away for longer fetches the list."""

# OFFSET 0: the planner would look for the least id among all of them, from the first on.
_BEFORE = f"""
SELECT coalesce((SELECT max(id) FROM reconciler.events), 0) AS newest,
       (SELECT min(late.id)
          FROM (SELECT id FROM reconciler.events
                 WHERE id < $1 AND at BETWEEN (SELECT at FROM reconciler.events WHERE id = $1) - interval '{LONGEST}'
                                          AND (SELECT at FROM reconciler.events WHERE id = $1) + interval '{LONGEST}'
                OFFSET 0) AS late) AS late"""


@dataclass(frozen=True, slots=True)
class GenerationChange:
    """How a generation stands, and what became of it: `kind` is the event's, or `status` where there is no event."""

    id: str
    user_id: str | None
    status: str
    kind: str
    asset_url: str | None
    event: int | None


class ChangeFeed:
    """Looks up what the notifications only name; every method is one or two statements."""

    def __init__(self, database: Database, shape: TableShape) -> None:
        self._database = database
        self._id_type = shape.id_type
        columns = """g.id::text AS id, g.user_id::text AS user_id, g.status::text AS status,
       g.asset_url::text AS asset_url, e.id AS event, coalesce(e.kind, 'status') AS kind"""
        self._of = f"""
SELECT {columns}
  FROM public.generations g LEFT JOIN reconciler.events e ON e.id = ANY($2::bigint[]) AND e.generation_id = g.id::text
 WHERE g.id = ANY($1::text[]::{shape.id_type}[]) ORDER BY e.id"""
        self._since = f"""
SELECT {columns}
  FROM reconciler.events e JOIN public.generations g ON g.id = e.generation_id::{shape.id_type}
 WHERE e.id > $1 AND ($2::text IS NULL OR g.user_id::text = $2) ORDER BY e.id LIMIT $3"""

    async def of(self, heard: Collection[tuple[str, int]]) -> list[GenerationChange]:
        """Return how these generations stand, once for each event heard of; 0 is none.

        Whatever is no id of a row, or no event of that row, is passed over.
        """
        keys = {as_key(name, self._id_type) for name, _ in heard} - {None}
        events = sorted({event for _, event in heard if event})
        rows = await self._database.fetch(self._of, list(keys), events)
        return [built(GenerationChange, row) for row in rows]

    async def newest(self) -> int:
        """Return the id of the newest event, 0 where there is none."""
        found: int = await self._database.value("SELECT coalesce(max(id), 0) FROM reconciler.events")
        return found

    async def since(self, event: int, user_id: str | None) -> list[GenerationChange] | None:
        """Return what this user (None: everybody) missed since the event with this id, oldest first.

        The last OVERLAP ids are told again, and the last LONGEST. None where that cannot be: the id is not from here,
        or too much happened.
        """
        row = await self._database.row(_BEFORE, event)
        assert row is not None
        if event > row["newest"] or row["newest"] - event > FARTHEST:
            return None
        before = min(event - OVERLAP, (row["late"] or event) - 1)
        rows = await self._database.fetch(self._since, max(before, 0), user_id, MOST + 1)
        return [built(GenerationChange, row) for row in rows] if len(rows) <= MOST else None
