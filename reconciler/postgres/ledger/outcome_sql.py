"""The SQL of the ledger that writes how a generation ends: success, repair, extension, loss, failure.

Each statement writes the application's row, the bookkeeping and the event together; the calls of the application's
hooks belong to it. Only `ledger` runs these statements; what begins each of them is in `ledger_sql`.
"""

from collections.abc import Mapping

from reconciler.postgres.hooks import call
from reconciler.postgres.ledger.ledger_sql import AT_REST, MINE, MINE_FIRST, NO_LEASE, SHOWN_ONCE, facts
from reconciler.postgres.predicates import TASK, mark_orphans, set_task, touch
from reconciler.postgres.schema import NO_PREVIEW, TableShape
from reconciler.postgres.statement import Statement

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
    """Call the application's hook on_failed. Its first parameter has the type of `generations.id`."""
    task = ":task_id::text, " if by_task else ""
    return call(f"on_failed(:generation_id::text::{table.id_type}, {task}:reason::text)")


def _note_delivered(table: TableShape) -> str:
    """Return the INSERT that makes the call of on_delivered due, once a task, where the application has the hook."""
    return f"""INSERT INTO reconciler.hook_calls (hook, generation_id, task_id, due_at)
    SELECT 'on_delivered', :generation_id, :task_id, now() FROM done
     WHERE to_regprocedure('reconciler.on_delivered({table.id_type}, text)') IS NOT NULL
    ON CONFLICT DO NOTHING"""


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
        "original_path": "(:paths::text[])[:main::int]", "completed_at": "now()",
        "updated_at": "now()", table.error_column or "": _no_error(table),
    }  # fmt: skip
    columns |= {name: value for name, value in optional.items() if name and table.has(name)} | _preview(table)
    if table.has("preview_status") and table.allows("preview_status", NO_PREVIEW):
        columns["preview_status"] = f"coalesce(g.preview_status, '{NO_PREVIEW}')"
    return ", ".join(f"{name} = {value}" for name, value in columns.items())


def _preview(table: TableShape) -> dict[str, str]:
    """Return the value of preview_url: our address instead of :former_preview, else what it is."""
    ours = """CASE WHEN g.preview_url::text = :former_preview::text THEN (:addresses::text[])[:main::int]
                        ELSE g.preview_url END"""
    return {"preview_url": ours} if table.holds_text("preview_url") else {}


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
_CLOSED = f"""{facts()}, {NO_LEASE}, due_at = :recheck::timestamptz, early_at = NULL,
           audit_at = now() + :second_look::interval"""


def finish(table: TableShape) -> Statement:
    """Write success: the application's row, the timing, the bookkeeping, the event; return held and written.

    Only where the receipts of all :numbers are there. The receipt of :n is written in any case. Objects of former tasks
    become orphans in 30 days, because their addresses were shown. :model_took is in seconds at the provider, :recheck
    when to ask for missing results, :second_look the time until the delivery is verified, :main the place in the lists,
    from 1, of what asset_url shows, :former_preview the preview_url that it replaces. The call of on_delivered becomes
    due.
    """
    replaced = mark_orphans(
        "the generation got another task", "replaced WHERE path <> ALL(:paths::text[])", since=SHOWN_ONCE
    )
    return Statement(f"""{MINE_FIRST},
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
    columns = {"asset_url": "(:addresses::text[])[:main::int]", **_lists(table, "asset_urls"), **_preview(table)}
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
    return Statement(f"""{MINE_FIRST},
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
LOST = Statement(f"""{MINE},
done AS (SELECT generation_id FROM mine),
closed AS (
    UPDATE reconciler.work w
       SET {facts()}, {AT_REST}, lost_at = now(), audit_at = now() + interval '30 days'
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
    unchanged = f"""g.id = :generation_id::text::{table.id_type} AND {TASK} IS NOT DISTINCT FROM :task_id
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
    return Statement(f"""{MINE_FIRST},
done AS (
    {done}),
closed AS (
    UPDATE reconciler.work w
       SET {NO_LEASE}, due_at = :until::timestamptz, early_at = NULL, gave_up = :until::timestamptz IS NOT NULL,
           seen_status = {"'failed'" if write else ":status_read"}, {set_task(":task_id")},
           failed_at = {"now()" if write else "NULL"}, why = :reason, finding = NULL, refused = NULL
      FROM mine, done WHERE w.generation_id = mine.generation_id),
{_event(":kind::text", payload, turn)}""")
