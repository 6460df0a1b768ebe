"""Which overdue rows are claimed first: the shares of the queues, and the order within each.

A row waits in one of the lines of `sql/074_lines.sql`, in the order of due times, and an index serves each line. A
claim reads the first rows of every line. Within a queue the row comes first whose wait wastes most; between the queues
each next place goes to the one that holds fewest places for its weight. Only `claims` runs the statement.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from reconciler.postgres.predicates import LEASE_IS_FREE


class Queue(StrEnum):
    """The queues that share the places of a process.

    WOKEN rows were announced. REQUESTED ones were woken by a callback or a person, and became due before they were
    claimed. FRESH ones are in flight, were never asked about and became due just now: behind a bulk INSERT they would
    wait for all of it, so the newest have a share. PATIENT rows are in flight, have been asked about and have been
    overdue for LONG. The user of an ENDED row sees an end already: it lacks its asset, or a late result is waited for.
    """

    WOKEN = "woken"
    REQUESTED = "requested"
    FRESH = "fresh"
    IN_FLIGHT = "in_flight"
    PATIENT = "patient"
    FAILING = "failing"
    HOPELESS = "hopeless"
    ENDED = "ended"


WEIGHTS: Mapping[Queue, int] = MappingProxyType(
    {
        Queue.REQUESTED: 8,
        Queue.FRESH: 8,
        Queue.IN_FLIGHT: 8,
        Queue.PATIENT: 3,
        Queue.FAILING: 3,
        Queue.HOPELESS: 2,
        Queue.ENDED: 3,
    }
)
"""How the places are shared by the queues of due rows while all of them wait."""

NEW = 10
"""Seconds overdue up to which a row that was never asked about is fresh."""

LONG = 120
"""Seconds overdue after which a row that was asked before gets a share of its own beside rows never asked about."""

LINES: Final = "'{0,1,2,3,4,5,6,7}'::smallint[]"
"""Every line of `sql/074_lines.sql`."""

_QUEUE = f"""CASE WHEN {{line}} = 7 THEN 'requested' WHEN {{line}} = 6 THEN 'ended' WHEN {{line}} = 5 THEN 'hopeless'
            WHEN {{line}} = 4 THEN 'failing' WHEN {{line}} > 0 AND {{late}} > {LONG}::float8 THEN 'patient'
            {{fresh}}ELSE 'in_flight' END"""

# The expected seconds between a task's end and now, roughly: the longer the wait was planned to be, the less likely the
# task has ended. With equal tasks no row comes a second time before the others came once: one that was asked was due
# later, and none gains faster than a row that was never asked about.
_WASTE = """CASE WHEN line.n > 3 THEN late
            ELSE late * least(1.0::float8, (late + planned) / lasts) END"""
# Seconds: how long the wait of a line was planned to be, and by when its tasks have ended at the latest, roughly.
_NOMINAL = """(ARRAY[10, 4, 24, 200]::float8[])[line.n + 1] AS planned,
                           (ARRAY[60, 60, 240, 2000]::float8[])[line.n + 1] AS lasts"""

LATE: Final = "extract(epoch FROM now() - greatest(w.due_at, now() - interval '1 year'))::float8"
"""How many seconds a row is overdue, a year at most: before PostgreSQL 17 no infinite time can be subtracted."""


def queue_of(line: str, late: str, *, fresh: bool = True) -> str:
    """Return the SQL that names the queue of a row: of its line, and of how many seconds it is overdue.

    Without `fresh` a fresh row counts as one in flight: it waits there, too.
    """
    fresh_rows = f"WHEN {line} = 0 AND {late} <= {NEW}::float8 THEN 'fresh' " if fresh else ""
    return _QUEUE.format(line=line, late=late, fresh=fresh_rows)


def picked_due(since: str) -> str:
    """Return the CTEs that lock the next :limit due rows, the last one named `picked`.

    :queues, :held and :weights are the queues, how many places each holds, and their weights.
    """
    due = f"w.due_at <= now() AND {since} AND {LEASE_IS_FREE}"
    # By their places in the table: the planner would take names for a reason to read all of it.
    places = "ARRAY(SELECT place FROM chosen ORDER BY turn, waste DESC)"
    return f"""
heads AS MATERIALIZED (
    SELECT first.place, {queue_of("line.n", "first.late", fresh=False)} AS queue, {_WASTE} AS waste
      FROM unnest({LINES}) AS line (n)
     CROSS JOIN LATERAL (SELECT {_NOMINAL}) AS nominal
     CROSS JOIN LATERAL (
           SELECT w.ctid AS place, {LATE} AS late FROM reconciler.work w
            WHERE w.line = line.n AND {due} ORDER BY w.due_at LIMIT 2 * :limit) AS first
     UNION ALL
    (SELECT w.ctid, 'fresh', -{LATE} FROM reconciler.work w
      WHERE w.line = 0 AND {due} AND w.due_at > now() - interval '{NEW} seconds'
      ORDER BY w.due_at DESC LIMIT 2 * :limit)),
chosen AS MATERIALIZED (
    SELECT place, max(waste) AS waste, min((held + nth)::float8 / weight::float8) AS turn
      FROM (SELECT *, row_number() OVER (PARTITION BY queue ORDER BY waste DESC) AS nth FROM heads) AS ranked
      JOIN unnest(:queues::text[], :held::int[], :weights::int[]) AS share (queue, held, weight) USING (queue)
     GROUP BY place ORDER BY turn, waste DESC LIMIT 2 * :limit),
picked AS (
    SELECT w.generation_id FROM reconciler.work w WHERE w.ctid = ANY ({places}) AND {due}
     ORDER BY array_position({places}, w.ctid) LIMIT :limit FOR UPDATE SKIP LOCKED)"""
