"""SQL conditions and clauses that several statements share, each written once.

This is text only: nothing here runs a statement or binds a value. `g` is a row of public.generations, `w` its row of
reconciler.work, `c` a callback; `:name` is a parameter of the statement that uses the text. Every module with
statements may use it. Which rows belong to us is in `eligibility`.
"""

from collections.abc import Sequence
from typing import Final

from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.domain.object_keys import KIND_WORDS
from reconciler.domain.poll_interval import LONGEST_WAIT
from reconciler.postgres.schema import TableShape

# As literals and not as a parameter, so that the planner sees that the partial index covers them.
IN_FLIGHT: Final = "g.status IN ({})".format(", ".join(f"'{word}'" for word in OPEN))
"""The application still waits for the row's result."""

IS_SUCCESS: Final = "g.status IN ({})".format(", ".join(f"'{word}'" for word in SUCCEEDED))
"""The row has one of the words for success."""

OPEN_OR_UNHEALED: Final = (
    "(status::text IN ('queued', 'generating', 'pending', 'processing')"
    " OR (status::text IN ('success', 'completed') AND asset_url IS NULL))"
)
"""The row may need a visit. These are the words of the partial index in `sql/040_open_index.sql`."""

CREATED: Final = "least(greatest(coalesce(g.created_at::timestamptz, now()), 'epoch'), now())"
"""When the row was created, as a time that Python can hold: the column may be infinite, or hold any year."""

TASK: Final = "nullif(g.task_id, '')"
"""The row's task, NULL where it has none: some applications write '' until they have one."""

HAS_NO_TASK: Final = "coalesce(g.task_id, '') = ''"
"""The row has no task yet."""

SAME_TASK: Final = f"w.seen_task IS NOT DISTINCT FROM {TASK}"
"""Our bookkeeping is about the task that the row has now."""

FORMER_TASKS: Final = 20
"""How many of the tasks that a generation had before are remembered, the latest."""

NEVER_HAD_TASK: Final = "c.task_id IS DISTINCT FROM w.seen_task AND c.task_id <> ALL (w.former_tasks)"
"""The generation never had the callback's task. A callback of a former task does not offer a new one."""

WAITING_SINCE: Final = f"greatest({CREATED}, CASE WHEN w.seen_task = g.task_id THEN w.task_since END)"
"""Since when the row waits. One that got another task, or its first one late, waits for that one."""

LEASE_IS_FREE: Final = """(w.lease_until IS NULL OR w.lease_until < now()
        OR w.lease_until > now() + :term::interval + :term::interval)"""
"""No lease holds the row; `:term` is a lease's length.

A lease that ends more than two terms from now was drawn by a clock that jumped, and counts as expired."""


def far_ahead(time: str, most: str) -> str:
    """Return that a time lies farther ahead than this interval: a clock that jumped has written it."""
    return f"{time} > now() + interval '{most}'"


DUE_TOO_FAR: Final = far_ahead("w.due_at", f"{LONGEST_WAIT + 900:.0f} seconds")
"""The row is due later than any rest is long: it counts as due. Every wait is at most LONGEST_WAIT."""

AUDIT_TOO_FAR: Final = far_ahead("w.audit_at", "40 days")
"""The audit is later than any is planned: 33 days at most."""

EVENT_TOO_FAR: Final = far_ahead("coalesce(next_at, '-infinity')", "2 hours")
"""The event is sent later than any pause is long, a receiver's Retry-After of an hour included."""

OVERDUE: Final = f"w.due_at < now() - interval '1 second' AND {LEASE_IS_FREE}"
"""The row waits for its turn: it is due, and no instance holds it."""

TASK_ID_IS_INDEXED: Final = """EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = to_regclass('public.generations')::oid AND i.indisvalid AND a.attname = 'task_id'
       AND a.atttypid IN ('text'::regtype::oid, 'varchar'::regtype::oid)
       AND coalesce(pg_get_expr(i.indpred, i.indrelid), '') IN ('', '(task_id IS NOT NULL)'))"""
"""An index over all tasks begins with task_id. One of citext does not compare text, as our statements do."""


def may_recover(generation_id: str) -> str:
    """We gave this generation up or reopened it, or it shows fewer results than KIE announced: more may come."""
    return f"""EXISTS (
         SELECT FROM reconciler.work w
          WHERE w.generation_id = {generation_id}
            AND (w.gave_up OR w.reopened OR w.shown < jsonb_array_length(w.results)))"""


def text_of(table: TableShape, column: str | None) -> str:
    """Return a column as text, NULL where the table has no such column."""
    return f"g.{column}::text" if column and table.has(column) else "NULL::text"


def kind_of(table: TableShape) -> str:
    """Return the row's kind in our word for it, NULL where none of its columns names one."""
    named = _first_filled(table.kind_columns)
    words = {word: kind for kind, (_, *others) in KIND_WORDS.items() for word in others}
    ours = " ".join(f"WHEN '{word}' THEN '{kind}'" for word, kind in words.items())
    return f"CASE {named} {ours} ELSE {named} END"


def model_of(table: TableShape) -> str:
    """Return what the row names its model, from the first of its columns that is filled; NULL where none is."""
    return _first_filled(table.model_columns)


def _first_filled(columns: Sequence[str]) -> str:
    named = [f"nullif(g.{column}::text, '')" for column in columns]
    return f"coalesce({', '.join(named)})" if named else "NULL::text"


def asset_is_result(table: TableShape) -> str:
    """Return the condition that asset_url is one of the row's result_urls, or of the addresses that KIE gave."""
    given = """EXISTS (SELECT FROM reconciler.work own WHERE own.generation_id = g.id::text
               AND own.seen_task = g.task_id::text AND g.asset_url::text = ANY (own.sources))"""
    return f"(coalesce(g.asset_url::text, '') <> '' AND ({_listed(table)} OR {given})) IS TRUE"


def _listed(table: TableShape) -> str:
    """Return the condition that asset_url is one of result_urls, in whatever type these are."""
    kind = table.columns.get("result_urls")
    if kind is None:
        return "false"
    if kind == "jsonb":
        return "g.result_urls @> to_jsonb(g.asset_url::text)"
    if kind.endswith("[]"):
        return "g.asset_url::text = ANY (g.result_urls::text[])"
    # JSON as text: an address is quoted there, or stands alone.
    text = r"replace(g.result_urls::text, '\/', '/')"
    return f"({text} = g.asset_url::text OR strpos({text}, to_json(g.asset_url::text)::text) > 0)"


def touch(table: TableShape) -> str:
    """Return the assignment of updated_at that goes with every change of the application's row."""
    return ", updated_at = now()" if table.has("updated_at") else ""


def begin(table: TableShape) -> str:
    """Return the assignment that moves a queued row on where it gets its task."""
    if not table.writes_generating:
        return ""
    return ", status = CASE WHEN g.status = 'queued' THEN 'generating' ELSE g.status END"


def past(time: str) -> str:
    """Return a time that can only be past, NULL where it is: one that lies ahead counts as now."""
    return f"CASE WHEN {time} > now() THEN now() ELSE {time} END"


def set_task(task: str) -> str:
    """Return the assignments to `w` that note its task: with a new one also since when, and the one before."""
    other = f"w.seen_task IS DISTINCT FROM {task}"
    return f"""seen_task = {task},
       task_since = CASE WHEN {other} THEN now() ELSE {past("w.task_since")} END,
       former_tasks = CASE WHEN {other} AND w.seen_task IS NOT NULL
                           THEN (array_append(w.former_tasks, w.seen_task))
                                [cardinality(w.former_tasks) - {FORMER_TASKS - 2}:]
                           ELSE w.former_tasks END"""


def mark_orphans(reason: str, source: str, since: str = "now()") -> str:
    """Return the INSERT that marks the paths of `source` (what follows FROM) as objects that no row names.

    `since` is the SQL time from when on they are orphans.
    """
    return f"""INSERT INTO reconciler.orphans (path, why, since)
    SELECT path, '{reason}', {since} FROM {source} ON CONFLICT DO NOTHING"""
