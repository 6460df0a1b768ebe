"""The SQL of the ledger, built once for the application's table as it is.

Column names come from introspection and are known words; values are always parameters. Every statement takes
:generation_id and :lease. Those that keep facts also take :seen_status, the application's status as we read it, and
each column of FACTS. Only `ledger` runs these statements. Those that end a generation are in `outcome_sql`.
"""

from reconciler.postgres.clock import READ_CLOCK
from reconciler.postgres.pool import ASYNC_COMMIT, LOCK_WAIT
from reconciler.postgres.predicates import (
    CREATED,
    HAS_NO_TASK,
    IN_FLIGHT,
    NEVER_HAD_TASK,
    SAME_TASK,
    TASK,
    asset_is_result,
    begin,
    kind_of,
    mark_orphans,
    model_of,
    past,
    set_task,
    text_of,
    touch,
)
from reconciler.postgres.schema import UNSEEN, TableShape
from reconciler.postgres.statement import Statement

FACTS = (
    "task_id", "sources", "results", "stale", "key_hash", "family", "acknowledged_at", "answered_at", "completed_at",
    "took", "media_deadline", "looked_at", "looks", "misses", "unknowns", "empties", "failing_since", "empty_since",
    "empty_counted_at", "missing_since", "contradiction", "why", "finding", "gave_up", "reopened", "shown",
    "failing", "healed_at", "results_task",
)  # fmt: skip
"""The columns of `work` that keep what is known of a task; `task_id` is kept as `seen_task`.

`sources` are the addresses in `results`, for daemons that know no results and for people. `results_task` is the task of
the columns NEWER."""

NEWER = (
    "results", "failing_since", "empty_since", "empty_counted_at", "missing_since", "contradiction", "shown", "failing",
    "healed_at",
)  # fmt: skip
"""The columns that a daemon of 0.1.0 does not write."""

RENAMED = {"looks": "polls", "looked_at": "polled_at", "misses": "failures", "why": "reason", "took": "duration"}
"""Columns whose field of `Row` has another name: the schema keeps the names that operators know."""

# Locks our row where the lease still holds it. Every fenced statement begins so: token and row lock are the fence.
MINE = """
WITH mine AS MATERIALIZED (
    SELECT generation_id, woken, seen_task, task_since, refunded_at, delivered_at FROM reconciler.work
     WHERE generation_id = :generation_id AND lease = :lease FOR UPDATE)"""

# The same for statements that go on to write public.generations. Locks that this write, its triggers and a hook in the
# same transaction need are waited for :lock_wait at most; our own row is locked by then. As a part of the statement, it
# needs no round trip and holds behind a pooler.
MINE_FIRST = f"""{MINE.replace("mine AS", "own_row AS")},
mine AS MATERIALIZED (SELECT own_row.*, {LOCK_WAIT} FROM own_row)"""

SHOWN_ONCE = "now() + interval '30 days'"
"""From when on an object is an orphan whose address was shown: pages and caches may show it for so long."""

_MAY_BE_SHOWN = f"CASE WHEN (SELECT delivered_at FROM mine) IS NULL THEN now() ELSE {SHOWN_ONCE} END"

NO_LEASE = "lease = NULL, lease_until = NULL, locked_write = NULL, write_at = NULL"
AT_REST = f"{NO_LEASE}, due_at = NULL, early_at = NULL"


def facts(seen_status: str = ":seen_status") -> str:
    """Return the assignments of the facts about a row; `seen_status` is its status in SQL."""
    kept = [set_task(":task_id") if name == "task_id" else f"{name} = :{name}" for name in FACTS]
    return ", ".join([f"seen_status = {seen_status}", _failed_at(seen_status), *kept])


def _failed_at(seen_status: str) -> str:
    """Return the assignment of when the row failed: now where this visit is the first that sees the failure."""
    return f"""failed_at = CASE WHEN {seen_status}::text IS DISTINCT FROM 'failed' THEN NULL
                         WHEN w.seen_status = 'failed' THEN w.failed_at ELSE now() END"""


# Writes the facts into `work`; returns a row where the lease holds.
NOTE = Statement(f"""{MINE}
UPDATE reconciler.work w SET {facts()} FROM mine WHERE w.generation_id = mine.generation_id RETURNING true""")

# Writes the facts and ends lease and due time; returns a row where the lease holds. The objects of a cancelled
# generation become orphans, but not where it was delivered once: they may still be shown somewhere.
LEAVE = Statement(f"""{MINE},
objects AS (
    DELETE FROM reconciler.assets a USING mine
     WHERE a.generation_id = mine.generation_id AND mine.delivered_at IS NULL AND :seen_status::text = 'cancelled'
    RETURNING a.path),
left_behind AS ({mark_orphans("the generation was cancelled", "objects")})
UPDATE reconciler.work w SET {facts()}, {AT_REST} FROM mine WHERE w.generation_id = mine.generation_id
RETURNING true""")

# Deletes bookkeeping and receipts of a generation that the application deleted; its objects become orphans. Does
# nothing while row security may hide the row.
FORGET = Statement(f"""
WITH gone AS (
    DELETE FROM reconciler.work WHERE generation_id = :generation_id AND lease = :lease AND NOT EXISTS ({UNSEEN})
    RETURNING generation_id),
objects AS (DELETE FROM reconciler.assets a USING gone WHERE a.generation_id = gone.generation_id RETURNING a.path)
{mark_orphans("the generation was deleted", "objects")}""")

# Writes the facts and where the asset :n will be stored; returns a row where the lease holds and the asset has no
# receipt, or one from before the row had another task meanwhile, or one of other bytes that were never shown. The path
# of an earlier attempt becomes an orphan, and :path is none any more.
INTEND = Statement(f"""{MINE},
noted AS (
    UPDATE reconciler.work w SET {facts()} FROM mine WHERE w.generation_id = mine.generation_id
    RETURNING w.generation_id),
earlier AS (
    SELECT a.path FROM reconciler.assets a JOIN mine USING (generation_id)
     WHERE a.task_id = :task_id AND a.n = :n AND a.path <> :path),
left_behind AS ({mark_orphans("another name at a later attempt", "earlier", since=_MAY_BE_SHOWN)}),
wanted AS (DELETE FROM reconciler.orphans o USING mine WHERE o.path = :path),
overwritten AS (
    DELETE FROM reconciler.assets a USING mine
     WHERE a.generation_id = mine.generation_id AND a.task_id <> :task_id AND a.path = :path)
INSERT INTO reconciler.assets AS a (generation_id, task_id, n, path, mime, size, sha256, md5)
SELECT generation_id, :task_id, :n, :path, :mime, :size, :sha256, :md5 FROM noted
ON CONFLICT (generation_id, task_id, n) DO UPDATE
   SET path = excluded.path, mime = excluded.mime, size = excluded.size, sha256 = excluded.sha256, md5 = excluded.md5,
       version = NULL, verified_by = NULL,
       upload = CASE WHEN (a.path, a.size, a.sha256) = (excluded.path, excluded.size, excluded.sha256) THEN a.upload END
 WHERE a.verified_by IS NULL
    OR (:shown::integer IS NULL AND a.sha256 <> excluded.sha256)
    OR (SELECT mine.seen_task IS DISTINCT FROM :task_id OR a.stored_at < mine.task_since FROM mine)
RETURNING true""")

# Writes the name of a resumable upload into the asset :n; returns a row where the lease holds.
UPLOAD_NAME = Statement(f"""{MINE}
UPDATE reconciler.assets a SET upload = :upload
  FROM mine WHERE a.generation_id = mine.generation_id AND a.task_id = :task_id AND a.n = :n RETURNING true""")

# Writes the receipt of the asset :n; returns a row where the lease holds.
STORED = Statement(f"""{MINE}
UPDATE reconciler.assets a SET version = :version, verified_by = :verified_by, stored_at = now()
  FROM mine WHERE a.generation_id = mine.generation_id AND a.task_id = :task_id AND a.n = :n
RETURNING {ASYNC_COMMIT}""")

# The tasks that callbacks offer to a row without one: the newest and the first two, so that later callbacks cannot
# hide them. For every other row this costs nothing.
_OFFERED = f"""
       CASE WHEN {HAS_NO_TASK} THEN ARRAY(
            SELECT c.task_id FROM reconciler.callbacks c
             WHERE c.generation_id = w.generation_id AND c.at > now() - interval '14 days' AND {NEVER_HAD_TASK}
             GROUP BY c.task_id
             ORDER BY row_number() OVER (ORDER BY max(c.id) DESC) > 1, min(c.id) LIMIT 3) END AS offered"""


def read(table: TableShape) -> Statement:
    """Read the generations :ids with bookkeeping, receipts and offered tasks; write nothing; return one row each.

    Receipts from before the row had another task meanwhile do not count: they may number the results differently.
    """
    facts = ", ".join(f"w.{name}" for name in FACTS if name != "task_id")
    since = f"CASE WHEN {SAME_TASK} THEN {past('w.task_since')} ELSE now() END"
    return Statement(f"""
SELECT g.id::text AS id, g.user_id::text AS user_id, {TASK} AS task_id, g.status::text AS status,
       {kind_of(table)} AS kind, {model_of(table)} AS model, g.asset_url,
       {asset_is_result(table)} AS asset_is_result, {text_of(table, "preview_url")} AS preview_url,
       {CREATED} AS created_at, w.seen_task, {facts}, w.locked_write, clock_timestamp() AS now, {READ_CLOCK},{_OFFERED},
       CASE WHEN {HAS_NO_TASK} THEN w.refused END AS create_refusal,
       {since} AS task_since, (w.delivered_at < {since}) IS TRUE AS made_again,
       (cardinality(w.former_tasks) > 0 OR w.seen_task <> {TASK}) IS TRUE AS another_task,
       (SELECT jsonb_agg(to_jsonb(a) ORDER BY a.n) FROM reconciler.assets a
         WHERE a.generation_id = w.generation_id AND a.task_id = w.seen_task
           AND (a.stored_at >= w.task_since) IS NOT FALSE)::text AS assets
  FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{table.id_type}
 WHERE w.generation_id = ANY(:ids)""")


def rest(table: TableShape, *, set_generating: bool) -> Statement:
    """Write the facts, end the lease, set due and early time; return a row where the lease holds.

    Where the row was woken after the claim (:woken), it is due at once, but not within two seconds of the last poll.
    The times are meant as waits from :decided_at (null: as they are): the clock may have been set since.
    With `set_generating` a queued row of the application becomes generating. :locked_write is the write that waits for
    a lock of the application, tried again at :write_at; both are null where none does.
    """
    generating, seen = "", ":seen_status"
    elapsed = "coalesce(clock_timestamp() - :decided_at::timestamptz, interval '0')"
    if set_generating:
        generating = f""",
generating AS (
    UPDATE public.generations g SET status = 'generating'{touch(table)} FROM mine
     WHERE g.id = :generation_id::text::{table.id_type} AND g.status = 'queued' AND g.task_id = :task_id
    RETURNING g.status)"""
        seen = "coalesce((SELECT status FROM generating), :seen_status)"
    return Statement(f"""{MINE_FIRST if set_generating else MINE}{generating}
UPDATE reconciler.work w
   SET {facts(seen)}, lease = NULL, lease_until = NULL, locked_write = :locked_write::jsonb,
       write_at = :write_at::timestamptz + {elapsed},
       due_at = CASE WHEN mine.woken = :woken THEN :until::timestamptz + {elapsed}
                     ELSE greatest(now(), :looked_at::timestamptz + {elapsed} + interval '2 seconds') END,
       early_at = :early::timestamptz + {elapsed}, trigger = CASE WHEN mine.woken = :woken THEN NULL ELSE w.trigger END
  FROM mine WHERE w.generation_id = mine.generation_id RETURNING {ASYNC_COMMIT}""")


def adopt(table: TableShape) -> Statement:
    """Write :task_id into a row in flight that has no task, and the facts about it; return held and written."""
    return Statement(f"""{MINE_FIRST},
done AS (
    UPDATE public.generations g SET task_id = :task_id::text{begin(table)}{touch(table)} FROM mine
     WHERE g.id = :generation_id::text::{table.id_type} AND {HAS_NO_TASK} AND {IN_FLIGHT}
    RETURNING g.status::text AS status),
kept AS (
    UPDATE reconciler.work w SET {facts("coalesce(done.status, :seen_status)")}
      FROM mine, done WHERE w.generation_id = mine.generation_id)
SELECT EXISTS (SELECT FROM mine) AS held, EXISTS (SELECT FROM done) AS written""")
