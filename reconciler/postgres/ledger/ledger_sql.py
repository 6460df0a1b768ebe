"""The SQL of the ledger, built once for the application's table as it is.

Column names come from introspection and are known words; values are always parameters. Every statement takes
:generation_id and :lease. Those that keep facts also take :seen_status, the application's status as we read it, and
each column of FACTS. Only `ledger` runs these statements.
"""

from collections.abc import Mapping

from reconciler.postgres.clock import READ_CLOCK
from reconciler.postgres.hooks import call
from reconciler.postgres.pool import ASYNC_COMMIT, LOCK_WAIT
from reconciler.postgres.predicates import (
    CREATED,
    IN_FLIGHT,
    NEVER_HAD_TASK,
    begin,
    mark_orphans,
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
    "results_task",
)  # fmt: skip
"""The columns of `work` that keep what is known of a task; `task_id` is kept as `seen_task`.

`sources` are the addresses in `results`, for daemons that know no results and for people. `results_task` is the task of
the columns NEWER."""

NEWER = ("results", "failing_since", "empty_since", "empty_counted_at", "missing_since", "contradiction", "shown")
"""The columns that a daemon of 0.1.0 does not write."""

RENAMED = {"looks": "polls", "looked_at": "polled_at", "misses": "failures", "why": "reason", "took": "duration"}
"""Columns whose field of `Row` has another name: the schema keeps the names that operators know."""

# Locks our row where the lease still holds it. Every fenced statement begins so: token and row lock are the fence.
_MINE = """
WITH mine AS MATERIALIZED (
    SELECT generation_id, woken, seen_task, task_since, refunded_at, delivered_at FROM reconciler.work
     WHERE generation_id = :generation_id AND lease = :lease FOR UPDATE)"""

# The same for statements that go on to write public.generations. Locks that this write, its triggers and a hook in the
# same transaction need are waited for :lock_wait at most; our own row is locked by then. As a part of the statement, it
# needs no round trip and holds behind a pooler.
_MINE_FIRST = f"""{_MINE.replace("mine AS", "own_row AS")},
mine AS MATERIALIZED (SELECT own_row.*, {LOCK_WAIT} FROM own_row)"""

SHOWN_ONCE = "now() + interval '30 days'"
"""From when on an object is an orphan whose address was shown: pages and caches may show it for so long."""

_MAY_BE_SHOWN = f"CASE WHEN (SELECT delivered_at FROM mine) IS NULL THEN now() ELSE {SHOWN_ONCE} END"

_NO_LEASE = "lease = NULL, lease_until = NULL, locked_write = NULL, write_at = NULL"
_AT_REST = f"{_NO_LEASE}, due_at = NULL, early_at = NULL"


def _facts(seen_status: str = ":seen_status") -> str:
    facts = [set_task(":task_id") if name == "task_id" else f"{name} = :{name}" for name in FACTS]
    return ", ".join([f"seen_status = {seen_status}", _failed_at(seen_status), *facts])


def _failed_at(seen_status: str) -> str:
    """Return the assignment of when the row failed: now where this visit is the first that sees the failure."""
    return f"""failed_at = CASE WHEN {seen_status}::text IS DISTINCT FROM 'failed' THEN NULL
                         WHEN w.seen_status = 'failed' THEN w.failed_at ELSE now() END"""


# Writes the facts into `work`; returns a row where the lease holds.
NOTE = Statement(f"""{_MINE}
UPDATE reconciler.work w SET {_facts()} FROM mine WHERE w.generation_id = mine.generation_id RETURNING true""")

# Writes the facts and ends lease and due time; returns a row where the lease holds. The objects of a cancelled
# generation become orphans, but not where it was delivered once: they may still be shown somewhere.
LEAVE = Statement(f"""{_MINE},
objects AS (
    DELETE FROM reconciler.assets a USING mine
     WHERE a.generation_id = mine.generation_id AND mine.delivered_at IS NULL AND :seen_status::text = 'cancelled'
    RETURNING a.path),
left_behind AS ({mark_orphans("the generation was cancelled", "objects")})
UPDATE reconciler.work w SET {_facts()}, {_AT_REST} FROM mine WHERE w.generation_id = mine.generation_id
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
INTEND = Statement(f"""{_MINE},
noted AS (
    UPDATE reconciler.work w SET {_facts()} FROM mine WHERE w.generation_id = mine.generation_id
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
UPLOAD_NAME = Statement(f"""{_MINE}
UPDATE reconciler.assets a SET upload = :upload
  FROM mine WHERE a.generation_id = mine.generation_id AND a.task_id = :task_id AND a.n = :n RETURNING true""")

# Writes the receipt of the asset :n; returns a row where the lease holds.
STORED = Statement(f"""{_MINE}
UPDATE reconciler.assets a SET version = :version, verified_by = :verified_by, stored_at = now()
  FROM mine WHERE a.generation_id = mine.generation_id AND a.task_id = :task_id AND a.n = :n
RETURNING {ASYNC_COMMIT}""")

# Reads how on_failed is to be called now: 'task' where the application has it with three parameters and it was not
# called for this task yet, 'generation' where it has it with two and it was not called for this generation, else NULL.
# A daemon from before there were marks writes refunded_at only.
REFUND_DUE = Statement("""
WITH called AS (
    SELECT task_id, done_at FROM reconciler.hook_calls WHERE hook = 'on_failed' AND generation_id = :generation_id)
SELECT CASE WHEN EXISTS (SELECT FROM called WHERE task_id = coalesce(:task_id::text, '')) THEN NULL
            WHEN to_regprocedure(format('reconciler.on_failed(%s, text, text)', :id_type::text)) IS NOT NULL THEN
                 CASE WHEN (w.refunded_at > coalesce((SELECT max(done_at) FROM called), '-infinity')
                            AND w.refunded_at >= coalesce(w.task_since, '-infinity')) IS NOT TRUE THEN 'task' END
            WHEN to_regprocedure(format('reconciler.on_failed(%s, text)', :id_type::text)) IS NOT NULL
                 AND w.refunded_at IS NULL THEN 'generation' END
  FROM reconciler.work w WHERE w.generation_id = :generation_id""")

# Writes that on_failed was called for this task. The mark in hook_calls stays when the generation is deleted.
REFUNDED = Statement("""
WITH mark AS (
    INSERT INTO reconciler.hook_calls (hook, generation_id, task_id, done_at)
    VALUES ('on_failed', :generation_id, coalesce(:task_id::text, ''), now()) ON CONFLICT DO NOTHING)
UPDATE reconciler.work SET refunded_at = now() WHERE generation_id = :generation_id""")


def refund(table: TableShape, *, by_task: bool) -> Statement:
    """Call the application's hook on_failed, whose first parameter has the type of `generations.id`."""
    task = ":task_id::text, " if by_task else ""
    return call(f"on_failed(:generation_id::text::{table.id_type}, {task}:reason::text)")


def _note_delivered(table: TableShape) -> str:
    """Return the INSERT that makes the call of on_delivered due, once a task, where the application has the hook."""
    return f"""INSERT INTO reconciler.hook_calls (hook, generation_id, task_id, due_at)
    SELECT 'on_delivered', :generation_id, :task_id, now() FROM done
     WHERE to_regprocedure('reconciler.on_delivered({table.id_type}, text)') IS NOT NULL
    ON CONFLICT DO NOTHING"""


# The tasks that callbacks offer to a row without one: the newest and the first two, so that later callbacks cannot
# hide them. For every other row this costs nothing.
_OFFERED = f"""
       CASE WHEN g.task_id IS NULL THEN ARRAY(
            SELECT c.task_id FROM reconciler.callbacks c
             WHERE c.generation_id = w.generation_id AND c.at > now() - interval '14 days' AND {NEVER_HAD_TASK}
             GROUP BY c.task_id
             ORDER BY row_number() OVER (ORDER BY max(c.id) DESC) > 1, min(c.id) LIMIT 3) END AS offered"""


def read(table: TableShape) -> Statement:
    """Read the generations :ids with bookkeeping, receipts and offered tasks; write nothing; return one row each.

    Receipts from before the row had another task meanwhile do not count: they may number the results differently.
    """
    facts = ", ".join(f"w.{name}" for name in FACTS if name != "task_id")
    since = f"CASE WHEN w.seen_task IS NOT DISTINCT FROM g.task_id THEN {past('w.task_since')} ELSE now() END"
    return Statement(f"""
SELECT g.id::text AS id, g.user_id::text AS user_id, g.task_id::text AS task_id, g.status::text AS status,
       {text_of(table, table.kind_column)} AS kind, {text_of(table, table.model_column)} AS model, g.asset_url,
       {CREATED} AS created_at, w.seen_task, {facts}, w.locked_write, clock_timestamp() AS now, {READ_CLOCK},{_OFFERED},
       CASE WHEN g.task_id IS NULL THEN w.refused END AS create_refusal,
       {since} AS task_since, (w.delivered_at < {since}) IS TRUE AS made_again,
       (cardinality(w.former_tasks) > 0 OR w.seen_task <> g.task_id) IS TRUE AS another_task,
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
    elapsed = "(clock_timestamp() - coalesce(:decided_at::timestamptz, clock_timestamp()))"
    if set_generating:
        generating = f""",
generating AS (
    UPDATE public.generations g SET status = 'generating'{touch(table)} FROM mine
     WHERE g.id = :generation_id::text::{table.id_type} AND g.status = 'queued' AND g.task_id = :task_id
    RETURNING g.status)"""
        seen = "coalesce((SELECT status FROM generating), :seen_status)"
    return Statement(f"""{_MINE_FIRST if set_generating else _MINE}{generating}
UPDATE reconciler.work w
   SET {_facts(seen)}, lease = NULL, lease_until = NULL, locked_write = :locked_write::jsonb,
       write_at = :write_at::timestamptz + {elapsed},
       due_at = CASE WHEN mine.woken = :woken THEN :until::timestamptz + {elapsed}
                     ELSE greatest(now(), :looked_at::timestamptz + {elapsed} + interval '2 seconds') END,
       early_at = :early::timestamptz + {elapsed}, trigger = CASE WHEN mine.woken = :woken THEN NULL ELSE w.trigger END
  FROM mine WHERE w.generation_id = mine.generation_id RETURNING {ASYNC_COMMIT}""")


def adopt(table: TableShape) -> Statement:
    """Write :task_id into a row in flight that has no task, and the facts about it; return held and written."""
    return Statement(f"""{_MINE_FIRST},
done AS (
    UPDATE public.generations g SET task_id = :task_id::text{begin(table)}{touch(table)} FROM mine
     WHERE g.id = :generation_id::text::{table.id_type} AND g.task_id IS NULL AND {IN_FLIGHT}
    RETURNING g.status::text AS status),
kept AS (
    UPDATE reconciler.work w SET {_facts("coalesce(done.status, :seen_status)")}
      FROM mine, done WHERE w.generation_id = mine.generation_id)
SELECT EXISTS (SELECT FROM mine) AS held, EXISTS (SELECT FROM done) AS written""")


def _list_of_text(table: TableShape, column: str, parameter: str) -> str:
    """Return an array parameter in the column's own type: an array, jsonb, json, or text holding JSON."""
    if table.columns[column].endswith("[]"):
        # The assignment converts it, and refuses what is too long; a cast would cut it.
        return parameter
    cast = f"to_jsonb({parameter})"
    return cast if table.columns[column] == "jsonb" else f"{cast}::text::{table.columns[column]}"


def _no_error(table: TableShape) -> str:
    """Return NULL, or an empty reason where the column takes no NULL."""
    if table.error_column not in table.filled:
        return "NULL"
    return "'\"\"'" if table.columns[table.error_column] in {"json", "jsonb"} else "''"


def _success_columns(table: TableShape) -> str:
    columns = {"status": ":seen_status", "asset_url": "(:addresses::text[])[:main::int]"}
    columns |= _lists(table, "result_urls", "asset_urls")
    if table.has("result_json"):
        kind = table.columns["result_json"]
        columns["result_json"] = f"coalesce(:document::text::{kind}, g.result_json)"
    optional = {
        "original_path": "(:paths::text[])[:main::int]", "preview_status": "'none'", "completed_at": "now()",
        "updated_at": "now()", table.error_column or "": _no_error(table),
    }  # fmt: skip
    columns |= {name: value for name, value in optional.items() if name and table.has(name)}
    return ", ".join(f"{name} = {value}" for name, value in columns.items())


# The id of the newest event, which is higher than any turn before it. A count would not do: old events are deleted.
_NEXT_TURN = "(SELECT coalesce(max(id), 0) FROM reconciler.events WHERE generation_id = :generation_id)"


def _event(kind: str, payload: str, turn: str = _NEXT_TURN) -> str:
    """Write the event of a change and notify of it, once in each turn; return held and written."""
    return f"""
event AS (
    INSERT INTO reconciler.events (key, generation_id, kind, payload)
    SELECT concat_ws('|', :generation_id::text, :task_id::text, {kind}, {turn}), :generation_id, {kind}, {payload}
      FROM done
    ON CONFLICT (key) DO NOTHING
    RETURNING id, kind)
SELECT EXISTS (SELECT FROM mine) AS held, EXISTS (SELECT FROM done) AS written,
       (SELECT pg_notify('reconciler_events', json_build_object(
                   'event', event.id, 'id', :generation_id::text, 'kind', event.kind)::text) FROM event) AS announced"""


# on_failed was called for this task, or while the generation had none.
_IS_REFUNDED = """(
                   SELECT (refunded_at >= coalesce(task_since, '-infinity')) IS TRUE OR EXISTS (
                       SELECT FROM reconciler.hook_calls h WHERE h.hook = 'on_failed'
                          AND h.generation_id = :generation_id AND h.task_id IN (:task_id::text, ''))
                     FROM mine)"""


def _delivery_payload(asset_url: str = "(:addresses::text[])[:main::int]") -> str:
    """Return what an event says of a delivery; `missing` and `contradiction` only where there is something to say."""
    return f"""jsonb_strip_nulls(jsonb_build_object(
               'missing', to_jsonb(:missing::text[]), 'contradiction', :contradiction::text))
            || jsonb_build_object('generation_id', :generation_id::text, 'task_id', :task_id::text,
               'status', :seen_status::text, 'asset_url', {asset_url},
               'asset_urls', to_jsonb(:addresses::text[]), 'paths', to_jsonb(:paths::text[]),
               'result_urls', to_jsonb(:sources::text[]), 'refunded', {_IS_REFUNDED})"""


# Writes the receipt of the asset :n, if any, and counts how many of the assets :numbers have a receipt.
_PROOF = """receipt AS (
    UPDATE reconciler.assets a SET version = :version, verified_by = :verified_by, stored_at = now()
      FROM mine WHERE a.generation_id = mine.generation_id AND a.task_id = :task_id AND a.n = :n::int RETURNING a.n),
proof AS (
    SELECT count(*) AS n FROM reconciler.assets a JOIN mine USING (generation_id)
     WHERE a.task_id = :task_id AND a.n = ANY(:numbers::int[])
       AND (a.verified_by IS NOT NULL OR a.n IN (SELECT n FROM receipt)))"""


def _unchanged(table: TableShape) -> str:
    """The application's row still has the status, the task and the address that we read."""
    return f"""g.id = :generation_id::text::{table.id_type} AND g.task_id = :task_id AND g.status = :status_read
       AND g.asset_url IS NOT DISTINCT FROM :url_read"""


# Every result :numbers has its receipt.
_PROVEN = "proof.n = cardinality(:numbers::int[])"

# Writes the facts, ends the lease, sets when to ask for missing results, and when the delivery is verified.
_CLOSED = f"""{_facts()}, {_NO_LEASE}, due_at = :recheck::timestamptz, early_at = NULL,
           audit_at = now() + :second_look::interval"""


def finish(table: TableShape) -> Statement:
    """Write success: the application's row, the timing, the bookkeeping, the event; return held and written.

    Only where the receipts of all :numbers are there. The receipt of :n is written in any case. Objects of former tasks
    become orphans in 30 days, because their addresses were shown. :model_took is in seconds at the provider, :recheck
    when to ask for missing results, :second_look the time until the delivery is verified, :main the place in the lists,
    from 1, of what asset_url shows. The call of on_delivered becomes due.
    """
    replaced = mark_orphans(
        "the generation got another task", "replaced WHERE path <> ALL(:paths::text[])", since=SHOWN_ONCE
    )
    return Statement(f"""{_MINE_FIRST},
{_PROOF},
done AS (
    UPDATE public.generations g SET {_success_columns(table)} FROM mine, proof
     WHERE {_PROVEN} AND {_unchanged(table)}
    RETURNING g.id),
replaced AS (
    DELETE FROM reconciler.assets a USING done WHERE a.generation_id = :generation_id AND a.task_id <> :task_id
    RETURNING a.path),
left_behind AS ({replaced}),
timed AS (
    INSERT INTO reconciler.timings (model, took)
    SELECT left(:model::text, 200), :model_took::float8 FROM done WHERE :model_took::float8 IS NOT NULL),
closed AS (
    UPDATE reconciler.work w SET {_CLOSED}, delivered_at = now(), lost_at = NULL
      FROM mine, done WHERE w.generation_id = mine.generation_id),
hooked AS ({_note_delivered(table)}),
{_event(":kind::text", _delivery_payload())}""")


def repair(table: TableShape) -> Statement:
    """Write that a lost delivery is complete again: the bookkeeping, the event; return held and written.

    The application's row is written where an address changes, and keeps its status.
    """
    columns = {"asset_url": "(:addresses::text[])[:main::int]", **_lists(table, "asset_urls")}
    silent = {"original_path": "(:paths::text[])[:main::int]"} if table.has("original_path") else {}
    return _amend(table, columns, silent, "lost_at = NULL", _event("'repaired'::text", _delivery_payload()))


def extend(table: TableShape) -> Statement:
    """Write that results which came late are stored too: the bookkeeping, the event; return held and written.

    The lists of addresses are written where they change; asset_url and the status stay.
    """
    event = _event("'extended'::text", _delivery_payload(":url_read::text"))
    return _amend(table, _lists(table, "asset_urls", "result_urls"), {}, "lost_at = w.lost_at", event)


def _lists(table: TableShape, *names: str) -> dict[str, str]:
    """Return the values of those of these columns that the table has."""
    parameters = {"asset_urls": ":addresses::text[]", "result_urls": ":sources::text[]"}
    return {name: _list_of_text(table, name, parameters[name]) for name in names if table.has(name)}


def _amend(
    table: TableShape, columns: Mapping[str, str], silent: Mapping[str, str], lost: str, event: str
) -> Statement:
    """Write a delivered row's addresses again, only where :numbers have receipts and one of `columns` changes.

    `silent` are columns that are written along with them.
    """
    written = ", ".join(f"{name} = {value}" for name, value in {**columns, **silent}.items())
    differs = " OR ".join(f"g.{name}::text IS DISTINCT FROM ({value})::text" for name, value in columns.items())
    changed = (
        f"""
changed AS (
    UPDATE public.generations g SET {written}{touch(table)} FROM done
     WHERE {_unchanged(table)} AND ({differs})),"""
        if columns
        else ""
    )
    return Statement(f"""{_MINE_FIRST},
{_PROOF},
done AS (SELECT g.id FROM public.generations g, mine, proof WHERE {_unchanged(table)} AND {_PROVEN}),{changed}
closed AS (
    UPDATE reconciler.work w SET {_CLOSED}, {lost}
      FROM mine, done WHERE w.generation_id = mine.generation_id),
{event}""")


_LOST_PAYLOAD = """jsonb_build_object('generation_id', :generation_id::text, 'task_id', :task_id::text,
               'status', :seen_status::text, 'asset_url', :url_read::text, 'paths', (
                   SELECT jsonb_agg(a.path ORDER BY a.n) FROM reconciler.assets a
                    WHERE a.generation_id = :generation_id AND a.task_id = :task_id AND a.verified_by IS NULL))"""

# Writes the facts and the event that KIE has a delivered result no more; the application's row stays as it is. Returns
# held and written.
LOST = Statement(f"""{_MINE},
done AS (SELECT generation_id FROM mine),
closed AS (
    UPDATE reconciler.work w
       SET {_facts()}, {_AT_REST}, lost_at = now(), audit_at = now() + interval '30 days'
      FROM mine WHERE w.generation_id = mine.generation_id),
{_event("'lost'::text", _LOST_PAYLOAD)}""")


def _reason(table: TableShape, column: str) -> str:
    """Return the reason in the column's own type; the cast cuts it to what a varchar(n) takes."""
    kind = table.columns[column]
    return f"to_jsonb(:reason::text)::{kind}" if kind in {"json", "jsonb"} else f":reason::text::{kind}"


def fail(table: TableShape, *, write: bool) -> Statement:
    """Write failed: the application's row (only with `write`), the bookkeeping, the event; return held and written.

    :until is when to look again after our own give-up, else null.
    """
    unchanged = f"""g.id = :generation_id::text::{table.id_type} AND g.task_id IS NOT DISTINCT FROM :task_id
       AND g.status = :status_read"""
    error = f", {table.error_column} = {_reason(table, table.error_column)}" if table.error_column else ""
    done = f"SELECT g.id FROM public.generations g, mine WHERE {unchanged}"
    if write:
        done = f"""UPDATE public.generations g SET status = 'failed'{error}{touch(table)} FROM mine
     WHERE {unchanged} RETURNING g.id"""
    payload = """jsonb_build_object('generation_id', :generation_id::text, 'task_id', :task_id::text,
               'status', 'failed', 'reason', :reason::text, 'gave_up', :until::timestamptz IS NOT NULL)"""
    # A row that was handed over stays in flight and is seen to fail again and again: that is no new turn.
    turn = _NEXT_TURN if write else "'handover'"
    return Statement(f"""{_MINE_FIRST},
done AS (
    {done}),
closed AS (
    UPDATE reconciler.work w
       SET {_NO_LEASE}, due_at = :until::timestamptz, early_at = NULL, gave_up = :until::timestamptz IS NOT NULL,
           seen_status = {"'failed'" if write else ":status_read"}, {set_task(":task_id")},
           failed_at = {"now()" if write else "NULL"}, why = :reason, finding = NULL, refused = NULL
      FROM mine, done WHERE w.generation_id = mine.generation_id),
{_event(":kind::text", payload, turn)}""")
