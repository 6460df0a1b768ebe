"""The SQL texts of the reports, made for the application's table as it is.

Column names come from introspection and are known words; values are always parameters. Where a statement tells ours
from others' rows, `$1` is the providers and `$2` the pattern of task ids.
"""

from __future__ import annotations

from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.postgres.eligibility import owned_sql
from reconciler.postgres.schema import CREATED, TableShape


def _words(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words)


# As literals, so that the planner sees that the partial discovery index covers them.
_OPEN = f"g.status IN ({_words(OPEN)})"
_SUCCEEDED = f"g.status IN ({_words(SUCCEEDED)})"

# A row that got another task, or its first one late, waits for that one.
_SINCE = f"greatest({CREATED}, CASE WHEN w.seen_task = g.task_id THEN w.task_since END)"
_AGE = f"extract(epoch FROM now() - {_SINCE})::float8"
# Ordered by us, and nobody has said since whether there is a task.
_IN_DOUBT = "(g.task_id IS NULL AND w.ordered_at IS NOT NULL)"
_SAME_TASK = "w.seen_task IS NOT DISTINCT FROM g.task_id"

OUTBOX = """
SELECT (SELECT count(*) FROM (
            SELECT FROM reconciler.events WHERE announced_at IS NULL AND dead_at IS NULL LIMIT 10000) AS e)
           AS unannounced,
       (SELECT count(*) FROM (
            SELECT FROM reconciler.events WHERE dead_at IS NOT NULL LIMIT 10000) AS e) AS dead,
       (SELECT extract(epoch FROM now() - at)::float8 FROM reconciler.events
         WHERE announced_at IS NULL AND dead_at IS NULL ORDER BY id LIMIT 1) AS unannounced_age,
       pg_notification_queue_usage() AS queue_usage,
       (SELECT count(*) FROM reconciler.instances WHERE seen_at > now() - $1::interval) AS instances,
       (SELECT avg(looks)::float8 FROM reconciler.work WHERE delivered_at > now() - interval '24 hours') AS looks,
       (SELECT count(*) FROM reconciler.work WHERE lost_at > now() - interval '24 hours') AS lost,
       (SELECT count(*) FROM reconciler.work
         WHERE due_at < now() - interval '1 second' AND (lease_until IS NULL OR lease_until < now())) AS overdue
"""
"""Who is to be told, how full the queue is, who lives, what waits; $1 is how long a silent replica counts as alive."""

STORED = """
SELECT count(*) AS files, coalesce(sum(a.size), 0) AS bytes
  FROM reconciler.work w JOIN reconciler.assets a ON a.generation_id = w.generation_id
 WHERE w.delivered_at > now() - $1::interval AND a.verified_by IS NOT NULL
"""
"""What is stored of the generations delivered within $1."""

UNLISTED = """
SELECT DISTINCT unnest(sources) AS source FROM (
    SELECT sources FROM reconciler.work WHERE due_at IS NOT NULL AND finding = 'host_unlisted' LIMIT 100) AS w
"""

INDEXED = """EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = to_regclass('public.generations') AND i.indisvalid AND a.attname = 'task_id'
       AND coalesce(pg_get_expr(i.indpred, i.indrelid), '') IN ('', '(task_id IS NOT NULL)'))"""
"""Whether an index of all tasks begins with task_id."""

SEARCHABLE = f"SELECT pg_relation_size(to_regclass('public.generations')) < 64 << 20 OR {INDEXED}"
"""Whether the whole table can be searched for a task, somebody waiting for it: it is small, or there is that index."""

EVERYWHERE = "SELECT g.id::text AS id FROM public.generations g WHERE g.task_id = $1 ORDER BY g.id"
"""Every generation of the task $1."""


def known(shape: TableShape) -> str:
    """The generations of the task $1 that our bookkeeping knows or that are in flight."""
    return f"""
SELECT g.id::text AS id FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{shape.id_type}
 WHERE w.seen_task = $1 AND g.task_id = $1
 UNION
SELECT g.id::text FROM public.generations g WHERE {_OPEN} AND g.task_id = $1
 ORDER BY id"""


def in_flight(shape: TableShape) -> str:
    """Rows in flight by status, with the longest wait and how many wait for longer than $3."""
    return f"""
SELECT g.status::text AS status, count(*) AS rows, max({_AGE}) AS oldest,
       count(*) FILTER (WHERE {_SINCE} < now() - $3::interval) AS stuck
  FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
 WHERE {_OPEN} AND {owned_sql(shape)} GROUP BY g.status"""


def waiting(shape: TableShape) -> str:
    """Rows that will be looked at again, by finding: how many are unheard, and how many's results expire within $1."""
    undelivered = "w.media_deadline IS NOT NULL AND NOT (w.reopened AND w.delivered_at IS NOT NULL)"
    return f"""
SELECT w.finding, count(*) AS rows, count(*) FILTER (WHERE w.misses >= 3 AND {_OPEN}) AS unheard,
       count(*) FILTER (WHERE {undelivered} AND w.media_deadline < now() + $1::interval) AS expiring,
       extract(epoch FROM min(w.media_deadline) FILTER (WHERE {undelivered}) - now())::float8 AS left
  FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{shape.id_type}
 WHERE w.due_at IS NOT NULL AND {_SAME_TASK} GROUP BY w.finding"""


def last_day(shape: TableShape) -> str:
    """The rows created within $3, by how they stand."""
    return f"""
SELECT count(*) AS total, count(*) FILTER (WHERE {_SUCCEEDED}) AS success,
       count(*) FILTER (WHERE g.status = 'failed') AS failed, count(*) FILTER (WHERE {_OPEN}) AS generating
  FROM public.generations g WHERE g.created_at > now() - $3::interval AND {owned_sql(shape)}"""


def delivered(shape: TableShape) -> str:
    """How long deliveries took, of rows created within $3, by our own receipts."""
    seconds = f"extract(epoch FROM w.delivered_at - {CREATED})::float8"
    return f"""
SELECT count(*) AS delivered, avg({seconds}) AS mean, percentile_cont(0.95) WITHIN GROUP (ORDER BY {seconds}) AS p95
  FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{shape.id_type}
 WHERE w.delivered_at > now() - $3::interval AND g.created_at > now() - $3::interval AND {owned_sql(shape)}"""


def stuck(shape: TableShape) -> str:
    """Rows in flight for longer than $3, the oldest first."""
    kind = f"g.{shape.kind_column}::text" if shape.kind_column else "NULL::text"
    model = f"g.{shape.model_column}::text" if shape.model_column else "NULL::text"
    return f"""
SELECT g.id::text AS id, g.task_id::text AS task_id, {kind} AS kind, {model} AS model, g.status::text AS status,
       {CREATED} AS created_at, {_AGE} AS age, w.due_at,
       CASE WHEN w.generation_id IS NULL THEN 'no replica has looked at it yet'
            WHEN NOT {_SAME_TASK} THEN 'not looked at since it got this task'
            WHEN {_IN_DOUBT} THEN 'createTask: outcome unknown since '
                 || to_char(w.ordered_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC') || '; '
                 || coalesce(w.why, 'waiting for its callback')
            ELSE coalesce(w.why, 'waiting for its first look') END AS why,
       CASE WHEN {_SAME_TASK} THEN w.finding END AS finding,
       CASE WHEN {_SAME_TASK} THEN coalesce(w.looks, 0) ELSE 0 END AS looks
  FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
 WHERE {_OPEN} AND {_SINCE} < now() - $3::interval AND {owned_sql(shape)}
 ORDER BY g.created_at, g.id"""


def unhealed(shape: TableShape, *, first: bool) -> str:
    """Of the next $3 rows by id (after $5 unless `first`): successes with no asset, or one like $4 and not ours.

    The last row tells how many were looked at and where they end.
    """
    provider = ", g.provider" if shape.has("provider") else ""
    start = "" if first else f"WHERE g.id > $5::text::{shape.id_type}"
    return f"""
WITH span AS MATERIALIZED (
    SELECT g.id, g.status, g.task_id, g.asset_url{provider} FROM public.generations g {start} ORDER BY g.id LIMIT $3)
SELECT g.id::text AS id, g.asset_url::text AS asset_url, NULL::bigint AS looked, g.id AS place
  FROM span g
 WHERE {_SUCCEEDED} AND (coalesce(g.asset_url, '') = '' OR g.asset_url ILIKE ANY ($4::text[])) AND {owned_sql(shape)}
   AND NOT EXISTS (SELECT FROM reconciler.assets a
                    WHERE a.generation_id = g.id::text AND a.verified_by IS NOT NULL
                      AND right(g.asset_url, length(a.path)) = a.path)
 UNION ALL
SELECT (SELECT g.id::text FROM span g ORDER BY g.id DESC LIMIT 1), NULL, count(*), NULL FROM span
 ORDER BY place NULLS LAST"""
