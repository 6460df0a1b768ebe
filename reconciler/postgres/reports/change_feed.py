"""Changes of generations for open event streams: the state of rows, and missed events.

Nothing here writes. An event always carries the row's state of now, not of then: one that is sent twice, late or out of
order never takes a page back to an older state. The hub calls it.
"""

from collections.abc import Collection
from dataclasses import dataclass

from reconciler.postgres.pool import Database
from reconciler.postgres.records import as_key, build
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

OVERLAP = 100
"""How many ids before the last one seen are sent once more.

An id is drawn before its statement commits, so an event may become visible after one with a higher id. Every replica
runs a handful of such statements at once, most of them for milliseconds.
"""

LONGEST = "90 seconds"
"""Events of transactions that began at most so long before the last one seen are sent again, too.

A hook or a trigger of the application may hold an event back, while any number of others overtake it."""

MOST = 500
"""The most events that are sent one by one to a client that comes back; one that missed more fetches the list."""

FARTHEST = 10_000
"""How many ids are searched for those of one user; a client that was away for longer fetches the list."""

LONGEST_ADDRESS = 8192
"""A longer one is not sent: a thousand streams would get it."""

# Returns the newest id, and the lowest id before :event whose event is about as old as that one. OFFSET 0: the planner
# would search for the lowest id from the first event on.
_BEFORE = Statement(f"""
SELECT coalesce((SELECT max(id) FROM reconciler.events), 0) AS newest,
       (SELECT min(late.id)
          FROM (SELECT id FROM reconciler.events
                 WHERE id < :event
                   AND at BETWEEN (SELECT at FROM reconciler.events WHERE id = :event) - interval '{LONGEST}'
                              AND (SELECT at FROM reconciler.events WHERE id = :event) + interval '{LONGEST}'
                OFFSET 0) AS late) AS late""")


@dataclass(frozen=True, slots=True)
class GenerationChange:
    """The state of a generation and its event: `kind` is the event's, or `status` where there is no event."""

    id: str
    user_id: str | None
    status: str
    kind: str
    asset_url: str | None
    event: int | None


class ChangeFeed:
    """Looks up the rows that notifications only name; every method is one or two statements."""

    def __init__(self, database: Database, table: PresentTable) -> None:
        self._database = database
        self._table = table
        self._of = PerShape(table, _of_sql)
        self._since = PerShape(table, _since_sql)

    async def of(self, notifications: Collection[tuple[str, int]]) -> list[GenerationChange]:
        """Return the generations of these notifications (id and event, 0 without event), once for each event.

        An id without a row is passed over, and an event that is not the row's.
        """
        shape = self._table.shape
        keys = {as_key(name, shape.id_type) for name, _ in notifications} - {None}
        events = sorted({event for _, event in notifications if event})
        rows = await self._database.fetch(*self._of.of(shape)(ids=list(keys), events=events))
        return [build(GenerationChange, row) for row in rows]

    async def newest(self) -> int:
        """Return the id of the newest event, 0 where there is none."""
        found: int = await self._database.value("SELECT coalesce(max(id), 0) FROM reconciler.events")
        return found

    async def since(self, event: int, user_id: str | None) -> list[GenerationChange] | None:
        """Return the changes that this user (None: all users) missed since the event with this id, oldest first.

        The last OVERLAP ids are sent again, and the last LONGEST. None where the id is not from this database, or where
        too much happened since.
        """
        row = await self._database.row(*_BEFORE(event=event))
        assert row is not None
        if event > row["newest"] or row["newest"] - event > FARTHEST:
            return None
        before = min(event - OVERLAP, (row["late"] or event) - 1)
        statement = self._since.present(event=max(before, 0), user_id=user_id, limit=MOST + 1)
        rows = await self._database.fetch(*statement)
        return [build(GenerationChange, row) for row in rows] if len(rows) <= MOST else None


_COLUMNS = f"""g.id::text AS id, g.user_id::text AS user_id, g.status::text AS status,
       CASE WHEN octet_length(g.asset_url::text) <= {LONGEST_ADDRESS} THEN g.asset_url::text END AS asset_url,
       e.id AS event, coalesce(e.kind, 'status') AS kind"""


def _of_sql(table: TableShape) -> Statement:
    """Read and return the rows :ids, once for each of the events :events that belongs to the row."""
    return Statement(f"""
SELECT {_COLUMNS}
  FROM public.generations g
  LEFT JOIN reconciler.events e ON e.id = ANY(:events::bigint[]) AND e.generation_id = g.id::text
 WHERE g.id = ANY(:ids::text[]::{table.id_type}[]) ORDER BY e.id""")


def _since_sql(table: TableShape) -> Statement:
    """Read and return the first :limit events after :event, of one user or of all, with the rows of now."""
    return Statement(f"""
SELECT {_COLUMNS}
  FROM reconciler.events e JOIN public.generations g ON g.id = e.generation_id::{table.id_type}
 WHERE e.id > :event AND (:user_id::text IS NULL OR g.user_id::text = :user_id) ORDER BY e.id LIMIT :limit""")
