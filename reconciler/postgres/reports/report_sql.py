"""The SQL of the reports, built for the application's table as it is; all of it only reads.

Column names come from introspection and are known words; values are always named parameters. Statements that tell our
rows from others take :providers and :task_pattern (`eligibility.owned`).
"""

from reconciler.postgres.eligibility import owned, unstored
from reconciler.postgres.predicates import (
    CREATED,
    HAS_NO_TASK,
    IN_FLIGHT,
    IS_SUCCESS,
    OVERDUE,
    SAME_TASK,
    TASK,
    TASK_ID_IS_INDEXED,
    WAITING_SINCE,
    asset_is_result,
    kind_of,
    model_of,
)
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement

_AGE = f"extract(epoch FROM now() - {WAITING_SINCE})::float8"
# The row waits, or has ended in the way that our last visit saw. Who ended it since has no finding any more.
_AS_LAST_SEEN = f"({IN_FLIGHT} OR w.seen_status = g.status::text)"
# We called createTask for the row, and do not know whether KIE has made a task.
_IN_DOUBT = f"({HAS_NO_TASK} AND w.ordered_at IS NOT NULL)"

# Returns one row of figures: events to send, the notification queue, replicas alive (seen within :alive), overdue rows.
OUTBOX = Statement(f"""
SELECT (SELECT count(*) FROM (
            SELECT FROM reconciler.events WHERE announced_at IS NULL AND dead_at IS NULL LIMIT 10000) AS e)
           AS unannounced,
       (SELECT count(*) FROM (
            SELECT FROM reconciler.events WHERE dead_at IS NOT NULL LIMIT 10000) AS e) AS dead,
       (SELECT extract(epoch FROM now() - at)::float8 FROM reconciler.events
         WHERE announced_at IS NULL AND dead_at IS NULL ORDER BY id LIMIT 1) AS unannounced_age,
       pg_notification_queue_usage() AS queue_usage,
       clock_timestamp() AS now,
       (SELECT extract(epoch FROM now() - stepped_at)::float8 FROM reconciler.clock) AS step_age,
       (SELECT array_agg(format('%s (pid %s)', i.host, i.pid) ORDER BY i.seen_at) FROM reconciler.instances i
         WHERE i.seen_at < now() - greatest(:alive::interval, '1 minute') AND i.seen_at > now() - interval '1 hour'
           AND NOT EXISTS (SELECT FROM reconciler.instances j WHERE j.host = i.host AND j.started_at > i.seen_at))
           AS replicas_lost,
       (SELECT count(*) FROM reconciler.instances WHERE seen_at > now() - :alive::interval) AS instances,
       (SELECT avg(looks)::float8 FROM reconciler.work WHERE delivered_at > now() - interval '24 hours') AS looks,
       (SELECT count(*) FROM reconciler.work WHERE lost_at > now() - interval '24 hours') AS lost,
       (SELECT count(*) FROM reconciler.work w WHERE {OVERDUE}) AS overdue""")

# Returns count and bytes of what is stored of the generations delivered within :within.
STORED = Statement("""
SELECT count(*) AS files, coalesce(sum(a.size), 0) AS bytes
  FROM reconciler.work w JOIN reconciler.assets a ON a.generation_id = w.generation_id
 WHERE w.delivered_at > now() - :within::interval AND a.verified_by IS NOT NULL""")

# Returns what waits for each hook of the application that fails. One that was dropped holds nothing up.
HOOKS = Statement("""
SELECT 'on_order' AS hook, failures::bigint AS waiting FROM reconciler.hook_failures
 WHERE hook = 'on_order' AND at > now() - interval '1 hour'
 UNION ALL
SELECT 'on_delivered', count(*) FROM (
       SELECT FROM reconciler.hook_calls
        WHERE done_at IS NULL AND tries > 0
          AND to_regprocedure(format('reconciler.on_delivered(%s, text)', :id_type::text)) IS NOT NULL
        LIMIT 10000) AS calls""")

UNLISTED = """
SELECT DISTINCT unnest(sources) AS source FROM (
    SELECT sources FROM reconciler.work WHERE due_at IS NOT NULL AND finding = 'host_unlisted' LIMIT 100) AS w
"""
"""Returns the sources of rows that wait because a result's host is not on the list."""

SOURCES_FAILING = Statement("""
SELECT DISTINCT unnest(sources) AS source FROM (
    SELECT sources FROM reconciler.work
     WHERE due_at IS NOT NULL AND (failing->'source'->>'count')::integer >= :least LIMIT 100) AS w""")
"""Returns the sources of rows whose results could not be fetched at least :least times in a row."""

SEARCHABLE = f"SELECT pg_relation_size(to_regclass('public.generations')) < 64 << 20 OR {TASK_ID_IS_INDEXED}"
"""Returns whether the whole table can be searched for a task while a person waits: it is small, or has an index."""

EVERYWHERE = Statement("SELECT g.id::text AS id FROM public.generations g WHERE g.task_id = :task_id ORDER BY g.id")
"""Returns every generation of the task."""


def known(table: TableShape) -> Statement:
    """Return the generations of :task_id that our bookkeeping knows or that are in flight."""
    return Statement(f"""
SELECT g.id::text AS id FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{table.id_type}
 WHERE w.seen_task = :task_id AND g.task_id = :task_id
 UNION
SELECT g.id::text FROM public.generations g WHERE {IN_FLIGHT} AND g.task_id = :task_id
 ORDER BY id""")


def in_flight(table: TableShape) -> Statement:
    """Return our rows in flight by status, with the longest wait and how many wait for longer than :stuck_after."""
    return Statement(f"""
SELECT g.status::text AS status, count(*) AS rows, max({_AGE}) AS oldest,
       count(*) FILTER (WHERE {WAITING_SINCE} < now() - :stuck_after::interval) AS stuck
  FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
 WHERE {IN_FLIGHT} AND {owned(table)} GROUP BY g.status""")


def waiting(table: TableShape) -> Statement:
    """Return by finding how many rows will be visited again, and how many of their results expire within :soon.

    Also the seconds until the first of them does. A row that has ended since our last visit does not count.
    """
    undelivered = "w.media_deadline IS NOT NULL AND w.shown IS NULL AND NOT (w.reopened AND w.delivered_at IS NOT NULL)"
    return Statement(f"""
SELECT w.finding, count(*) AS rows,
       count(*) FILTER (WHERE {undelivered} AND w.media_deadline < now() + :soon::interval) AS expiring,
       extract(epoch FROM min(w.media_deadline) FILTER (WHERE {undelivered}) - now())::float8 AS left
  FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{table.id_type}
 WHERE w.due_at IS NOT NULL AND {SAME_TASK} AND {_AS_LAST_SEEN} GROUP BY w.finding""")


def failing(table: TableShape) -> Statement:
    """Return the sides that have failed rows at least :least times in a row: how many rows, and since when, in seconds.

    Also the sentence that most of these rows rest with. Rows whose user sees a failure do not count, and no row that
    storage refuses for good: that is another finding.
    """
    waits = f"({IN_FLIGHT} OR ({IS_SUCCESS} AND w.seen_status = g.status::text))"
    return Statement(f"""
SELECT f.side, count(*) AS rows, extract(epoch FROM now() - min((f.series->>'since')::timestamptz))::float8 AS seconds,
       mode() WITHIN GROUP (ORDER BY f.series->>'reason') AS reason
  FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{table.id_type}
 CROSS JOIN LATERAL jsonb_each(w.failing) AS f(side, series)
 WHERE w.due_at IS NOT NULL AND {SAME_TASK} AND {waits} AND (f.series->>'count')::integer >= :least
   AND NOT (f.side = 'storage' AND w.finding IS NOT DISTINCT FROM 'storage_refuses')
 GROUP BY f.side""")


def last_day(table: TableShape) -> Statement:
    """Return how many of our rows were created within :within, by their status now."""
    return Statement(f"""
SELECT count(*) AS total, count(*) FILTER (WHERE {IS_SUCCESS}) AS success,
       count(*) FILTER (WHERE g.status = 'failed') AS failed, count(*) FILTER (WHERE {IN_FLIGHT}) AS generating
  FROM public.generations g WHERE g.created_at > now() - :within::interval AND {owned(table)}""")


def delivered(table: TableShape) -> Statement:
    """Return count, mean and 95th percentile of the seconds to delivery, of our rows created within :within."""
    seconds = f"extract(epoch FROM w.delivered_at - {CREATED})::float8"
    return Statement(f"""
SELECT count(*) AS delivered, avg({seconds}) AS mean, percentile_cont(0.95) WITHIN GROUP (ORDER BY {seconds}) AS p95
  FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{table.id_type}
 WHERE w.delivered_at > now() - :within::interval AND g.created_at > now() - :within::interval AND {owned(table)}""")


def stuck(table: TableShape) -> str:
    """Return our rows in flight for longer than :stuck_after, the oldest first, each with the reason.

    As text, because the list of generations builds on it.
    """
    return f"""
SELECT g.id::text AS id, {TASK} AS task_id, {kind_of(table)} AS kind,
       {model_of(table)} AS model, g.status::text AS status,
       {CREATED} AS created_at, {_AGE} AS age, w.due_at,
       CASE WHEN w.generation_id IS NULL THEN 'no replica has looked at it yet'
            WHEN NOT {SAME_TASK} THEN 'not looked at since it got this task'
            WHEN {_IN_DOUBT} THEN 'createTask: outcome unknown since '
                 || to_char(w.ordered_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC') || '; '
                 || coalesce(w.why, 'waiting for its callback')
            WHEN w.why IS NOT NULL THEN w.why
            WHEN w.lease_until > now() THEN 'a visit is under way'
            WHEN w.looks > 0 THEN 'its last visit ended without a reason'
            ELSE 'waiting for its first poll' END AS why,
       CASE WHEN {SAME_TASK} THEN w.finding END AS finding,
       CASE WHEN {SAME_TASK} THEN coalesce(w.looks, 0) ELSE 0 END AS looks
  FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
 WHERE {IN_FLIGHT} AND {WAITING_SINCE} < now() - :stuck_after::interval AND {owned(table)}
 ORDER BY g.created_at, g.id"""


def unhealed(table: TableShape, *, first: bool) -> Statement:
    """Return, of the next :limit rows by id, our successes with no asset, or one at the provider without a receipt.

    Starts behind :after unless `first`. The last row holds the number of rows that were read and the last id.
    """
    more = "".join(f", g.{name}" for name in ("provider", "result_urls") if table.has(name))
    start = "" if first else f"WHERE g.id > :after::text::{table.id_type}"
    return Statement(f"""
WITH span AS MATERIALIZED (
    SELECT g.id, g.status, g.task_id, g.asset_url{more} FROM public.generations g {start}
     ORDER BY g.id LIMIT :limit)
SELECT g.id::text AS id, g.asset_url::text AS asset_url, {asset_is_result(table)} AS asset_is_result,
       NULL::bigint AS looked, g.id AS place
  FROM span g
 WHERE {IS_SUCCESS} AND {unstored(table)}
   AND {owned(table)}
   AND NOT EXISTS (SELECT FROM reconciler.assets a
                    WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL
                      AND right(g.asset_url, length(a.path)) = a.path)
 UNION ALL
SELECT (SELECT g.id::text FROM span g ORDER BY g.id DESC LIMIT 1), NULL, NULL, count(*), NULL FROM span
 ORDER BY place NULLS LAST""")
