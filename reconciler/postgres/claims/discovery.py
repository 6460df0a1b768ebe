"""Makes due what no notification announced: the sweep's view of the application's table."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from reconciler.postgres.eligibility import eligible, owned, unstored
from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import (
    HAS_NO_TASK,
    IN_FLIGHT,
    IS_SUCCESS,
    LEASE_IS_FREE,
    NEVER_HAD_TASK,
    OPEN_OR_UNHEALED,
    SAME_TASK,
    TASK,
    past,
)
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

CHANGED = "(w.seen_status, w.seen_task) IS DISTINCT FROM"

# Reads the rows that wait because the application's table or hook refused a write; makes those due that no lease holds.
_RETRY_REFUSED = Statement(f"""
WITH refused AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w
     WHERE w.due_at > now() AND w.finding IN ('table_changed', 'row_refused', 'hook_failed', 'no_task')
       AND {LEASE_IS_FREE}
     ORDER BY w.generation_id FOR UPDATE SKIP LOCKED)
UPDATE reconciler.work w SET due_at = now() FROM refused WHERE w.generation_id = refused.generation_id""")


class Discovery:
    """The rows that no notification announced; `term` is a lease's length, `eligible_rows` say which rows are ours."""

    def __init__(
        self, database: Database, table: PresentTable, eligible_rows: Mapping[str, object], term: timedelta
    ) -> None:
        self._database = database
        self._term = term
        self._eligible = eligible_rows
        self._discover = PerShape(table, _discover_sql)
        self._overwritten = PerShape(table, _overwritten_sql)
        self._walked: datetime | None = None

    async def discover(self) -> int:
        """Make those due, and return how many they were."""
        found = len(await self._database.fetch(*self._discover.present(term=self._term, **self._eligible)))
        walked = await self._database.row(
            *self._overwritten.present(term=self._term, after=self._walked, page=WALK, **self._eligible)
        )
        assert walked is not None
        self._walked = walked["upto"]
        return found + int(walked["found"])

    async def retry_refused(self) -> None:
        """Make due what the application's table has refused."""
        await self._database.execute(*_RETRY_REFUSED(term=self._term))


# A callback may come while every visit fails: a task that it offers to a row without one does not wait for the row's
# due time.
_OFFERED = f"""({HAS_NO_TASK} AND w.due_at > now() AND EXISTS (
           SELECT FROM reconciler.callbacks c WHERE c.generation_id = w.generation_id AND {NEVER_HAD_TASK}
              AND c.at > greatest({past("w.looked_at")}, now() - interval '14 days')))"""

# Delivered, and the application has taken the address away or replaced it since, which changes neither status nor task.
# `why` is set where a visit left the row, or where results are missing: then the next visit is hours away.
_LOST_ADDRESS = """(w.delivered_at IS NOT NULL
           AND (w.due_at IS NULL AND w.why IS NULL OR w.due_at > now() AND w.finding = 'results_missing'))"""

WALK = 500
"""Deliveries whose address one sweep looks at: so many of the newest ones, and as many further ones in turn."""


def _overwritten_sql(table: TableShape) -> Statement:
    """Read the :page newest deliveries and the next ones behind :after; make those due that show KIE's address.

    Returns one row: how many became due, and behind which time the walk continues, null at its end.
    """
    return Statement(f"""
WITH page AS MATERIALIZED (
    SELECT w.generation_id, w.delivered_at FROM reconciler.work w
     WHERE w.delivered_at > coalesce(:after::timestamptz, '-infinity') ORDER BY w.delivered_at LIMIT :page),
newest AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w
     WHERE w.delivered_at IS NOT NULL ORDER BY w.delivered_at DESC LIMIT :page),
found AS (
    SELECT w.generation_id FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{table.id_type}
     WHERE w.generation_id IN (SELECT generation_id FROM page UNION SELECT generation_id FROM newest)
       AND {_LOST_ADDRESS} AND {SAME_TASK} AND {IS_SUCCESS} AND {owned(table)} AND {unstored(table)}),
at_hand AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w
     WHERE w.generation_id IN (SELECT generation_id FROM found) AND {LEASE_IS_FREE}
     ORDER BY w.generation_id FOR UPDATE SKIP LOCKED),
due AS (
    UPDATE reconciler.work w SET due_at = now(), trigger = 'sweep'
      FROM at_hand WHERE w.generation_id = at_hand.generation_id RETURNING w.generation_id)
SELECT (SELECT count(*) FROM due) AS found,
       (SELECT CASE WHEN count(*) = :page::bigint THEN max(delivered_at) END FROM page) AS upto""")


def _discover_sql(table: TableShape) -> Statement:
    """Read the eligible rows of the partial index and their `work`; make them due where free; return their ids."""
    return Statement(f"""
WITH found AS (
    SELECT g.id::text AS found_id, g.status, {TASK} AS task_id, w.generation_id IS NOT NULL AS known
      FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
     WHERE {OPEN_OR_UNHEALED}
       AND {eligible(table)}
       AND ({IN_FLIGHT} OR g.created_at > now() - interval '14 days')
       AND (w.generation_id IS NULL OR {CHANGED} (g.status, {TASK}) OR {_OFFERED} OR {_LOST_ADDRESS})),
at_hand AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id IN (SELECT found_id FROM found WHERE known)
    ORDER BY generation_id FOR UPDATE SKIP LOCKED)
INSERT INTO reconciler.work AS w (generation_id, due_at, trigger, seen_status, seen_task)
SELECT found_id, now(), 'sweep', status, task_id FROM found
 WHERE NOT known OR found_id IN (SELECT generation_id FROM at_hand)
 ORDER BY found_id
ON CONFLICT (generation_id) DO UPDATE SET due_at = now(), trigger = 'sweep' WHERE {LEASE_IS_FREE}
RETURNING w.generation_id""")
