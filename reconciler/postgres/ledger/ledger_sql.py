"""The SQL texts of the ledger, made once for the application's table as it is.

Column names come from introspection and are known words; values are always parameters. `$1` is the generation, `$2` the
lease; statements that keep facts go on with `$3` (the application's status as we saw it) and FACTS.
"""

from __future__ import annotations

from reconciler.domain.model import OPEN
from reconciler.postgres.ledger.task_history import NEVER_HAD, given
from reconciler.postgres.pool import SOON
from reconciler.postgres.schema import CREATED, UNSEEN, TableShape

FACTS = (
    "task_id", "sources", "stale", "key_hash", "family", "acknowledged_at", "answered_at", "completed_at", "took",
    "media_deadline", "looked_at", "looks", "misses", "unknowns", "empties", "why", "finding", "gave_up", "reopened",
)  # fmt: skip
"""The columns of `work` that keep what is known of a task, in parameter order from $4 on."""

RENAMED = {"looks": "polls", "looked_at": "polled_at", "misses": "failures", "why": "reason", "took": "duration"}
"""Columns whose field of `Row` has another name: the schema keeps the names that operators know."""

MINE = """
WITH mine AS MATERIALIZED (
    SELECT generation_id, woken, refunded_at, delivered_at FROM reconciler.work
     WHERE generation_id = $1 AND lease = $2 FOR UPDATE)"""

SET_FACTS = "seen_status = $3, " + ", ".join(
    given("$4") if name == "task_id" else f"{name} = ${n}" for n, name in enumerate(FACTS, start=4)
)
_A = len(FACTS) + 4  # the first parameter behind the facts
_LOOKED = FACTS.index("looked_at") + 4

NOTE = f"""{MINE}
UPDATE reconciler.work w SET {SET_FACTS} FROM mine WHERE w.generation_id = mine.generation_id RETURNING true
"""

# What was delivered once may still be shown somewhere: only objects that nobody ever saw become orphans.
LEAVE = f"""{MINE},
objects AS (
    DELETE FROM reconciler.assets a USING mine
     WHERE a.generation_id = mine.generation_id AND mine.delivered_at IS NULL AND $3::text = 'cancelled'
    RETURNING a.path),
left_behind AS (
    INSERT INTO reconciler.orphans (path, why) SELECT path, 'the generation was cancelled' FROM objects
    ON CONFLICT DO NOTHING)
UPDATE reconciler.work w
   SET {SET_FACTS}, lease = NULL, lease_until = NULL, due_at = NULL, early_at = NULL
  FROM mine WHERE w.generation_id = mine.generation_id RETURNING true
"""

FORGET = f"""
WITH gone AS (
    DELETE FROM reconciler.work WHERE generation_id = $1 AND lease = $2 AND NOT EXISTS ({UNSEEN})
    RETURNING generation_id),
objects AS (DELETE FROM reconciler.assets a USING gone WHERE a.generation_id = gone.generation_id RETURNING a.path)
INSERT INTO reconciler.orphans (path, why) SELECT path, 'the generation was deleted' FROM objects ON CONFLICT DO NOTHING
"""

INTEND = f"""{MINE},
noted AS (
    UPDATE reconciler.work w SET {SET_FACTS} FROM mine WHERE w.generation_id = mine.generation_id
    RETURNING w.generation_id),
left_behind AS (
    INSERT INTO reconciler.orphans (path, why)
    SELECT a.path, 'another name at a later attempt' FROM reconciler.assets a JOIN mine USING (generation_id)
     WHERE a.task_id = $4 AND a.n = ${_A} AND a.path <> ${_A + 1}
    ON CONFLICT DO NOTHING),
wanted AS (DELETE FROM reconciler.orphans o USING mine WHERE o.path = ${_A + 1}),
overwritten AS (
    DELETE FROM reconciler.assets a USING mine
     WHERE a.generation_id = mine.generation_id AND a.task_id <> $4 AND a.path = ${_A + 1})
INSERT INTO reconciler.assets AS a (generation_id, task_id, n, path, mime, size, sha256, md5)
SELECT generation_id, $4, ${_A}, ${_A + 1}, ${_A + 2}, ${_A + 3}, ${_A + 4}, ${_A + 5} FROM noted
ON CONFLICT (generation_id, task_id, n) DO UPDATE
   SET path = excluded.path, mime = excluded.mime, size = excluded.size, sha256 = excluded.sha256, md5 = excluded.md5,
       upload = CASE WHEN (a.path, a.size, a.sha256) = (excluded.path, excluded.size, excluded.sha256) THEN a.upload END
 WHERE a.verified_by IS NULL
RETURNING true
"""

BEGUN = f"""{MINE}
UPDATE reconciler.assets a SET upload = $5
  FROM mine WHERE a.generation_id = mine.generation_id AND a.task_id = $3 AND a.n = $4 RETURNING true
"""

STORED = f"""{MINE}
UPDATE reconciler.assets a SET version = $5, verified_by = $6, stored_at = now()
  FROM mine WHERE a.generation_id = mine.generation_id AND a.task_id = $3 AND a.n = $4 RETURNING {SOON}
"""

REFUND_DUE = """
SELECT to_regprocedure(format('reconciler.on_failed(%s, text)', $2::text)) IS NOT NULL
   AND (SELECT refunded_at IS NULL FROM reconciler.work WHERE generation_id = $1)
"""
REFUNDED = "UPDATE reconciler.work SET refunded_at = now() WHERE generation_id = $1"


def refund(shape: TableShape) -> str:
    """Call the application's hook, whose first parameter has the type of `generations.id`."""
    return f"SELECT reconciler.on_failed($1::text::{shape.id_type}, $2)"


# The tasks that callbacks offer to a row without one, the newest and the first two: who came later cannot hide them.
# For every other row this costs nothing.
_OFFERED = f"""
       CASE WHEN g.task_id IS NULL THEN ARRAY(
            SELECT c.task_id FROM reconciler.callbacks c
             WHERE c.generation_id = w.generation_id AND c.at > now() - interval '14 days' AND {NEVER_HAD}
             GROUP BY c.task_id
             ORDER BY row_number() OVER (ORDER BY max(c.id) DESC) > 1, min(c.id) LIMIT 3) END AS offered"""


def read(shape: TableShape) -> str:
    """Read generations with their bookkeeping; $1 is an array of ids."""
    kind = f"g.{shape.kind_column}::text" if shape.kind_column else "NULL::text"
    model = f"g.{shape.model_column}::text" if shape.model_column else "NULL::text"
    facts = ", ".join(f"w.{name}" for name in FACTS if name != "task_id")
    since = "CASE WHEN w.seen_task IS NOT DISTINCT FROM g.task_id THEN w.task_since ELSE now() END"
    return f"""
SELECT g.id::text AS id, g.user_id::text AS user_id, g.task_id::text AS task_id, g.status::text AS status,
       {kind} AS kind, {model} AS model, g.asset_url, {CREATED} AS created_at,
       w.seen_task, {facts}, clock_timestamp() AS now,{_OFFERED},
       CASE WHEN g.task_id IS NULL THEN w.refused END AS create_refusal,
       {since} AS task_since, (w.delivered_at < {since}) IS TRUE AS made_again,
       (SELECT jsonb_agg(to_jsonb(a) ORDER BY a.n) FROM reconciler.assets a
         WHERE a.generation_id = w.generation_id AND a.task_id = w.seen_task)::text AS assets
  FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{shape.id_type}
 WHERE w.generation_id = ANY($1)
"""


def rest(shape: TableShape, *, begun: bool) -> str:
    """Keep the facts and give the lease back; behind the facts: woken at the claim, until, early."""
    moved = ""
    seen = SET_FACTS
    if begun:
        moved = f""",
moved AS (
    UPDATE public.generations g SET status = 'generating'{touched(shape)} FROM mine
     WHERE g.id = $1::text::{shape.id_type} AND g.status = 'queued' AND g.task_id = $4 RETURNING g.status)"""
        seen = SET_FACTS.replace("seen_status = $3", "seen_status = coalesce((SELECT status FROM moved), $3)")
    return f"""{MINE}{moved}
UPDATE reconciler.work w
   SET {seen}, lease = NULL, lease_until = NULL,
       due_at = CASE WHEN mine.woken = ${_A} THEN ${_A + 1}
                     ELSE greatest(now(), ${_LOOKED}::timestamptz + interval '2 seconds') END,
       early_at = ${_A + 2}, trigger = CASE WHEN mine.woken = ${_A} THEN NULL ELSE w.trigger END
  FROM mine WHERE w.generation_id = mine.generation_id RETURNING {SOON}
"""


def adopt(shape: TableShape) -> str:
    """Give the row the task that is its own, and keep the facts, which are about that task: $4."""
    begun = ", status = CASE WHEN g.status = 'queued' THEN 'generating' ELSE g.status END"
    open_words = ", ".join(f"'{word}'" for word in OPEN)
    seen = SET_FACTS.replace("seen_status = $3", "seen_status = coalesce(done.status, $3)")
    return f"""{MINE},
done AS (
    UPDATE public.generations g
       SET task_id = $4::text{begun if shape.writes_generating else ""}{touched(shape)} FROM mine
     WHERE g.id = $1::text::{shape.id_type} AND g.task_id IS NULL AND g.status IN ({open_words})
    RETURNING g.status::text AS status),
kept AS (UPDATE reconciler.work w SET {seen} FROM mine, done WHERE w.generation_id = mine.generation_id)
SELECT EXISTS (SELECT FROM mine) AS held, EXISTS (SELECT FROM done) AS moved
"""


def touched(shape: TableShape) -> str:
    """What a change of the application's row sets besides, where the column is there."""
    return ", updated_at = now()" if shape.has("updated_at") else ""


def list_of_text(shape: TableShape, column: str, parameter: str) -> str:
    """An array parameter in the column's own type: an array, jsonb, json, or text holding JSON."""
    if shape.columns[column].endswith("[]"):
        # The assignment converts it, and refuses what is too long; a cast would cut it.
        return parameter
    cast = f"to_jsonb({parameter})"
    return cast if shape.columns[column] == "jsonb" else f"{cast}::text::{shape.columns[column]}"


def _nothing(shape: TableShape) -> str:
    """What stands for no error: NULL, or what an empty reason is where the column takes no NULL."""
    if shape.error_column not in shape.filled:
        return "NULL"
    return "'\"\"'" if shape.columns[shape.error_column] in {"json", "jsonb"} else "''"


def _success_columns(shape: TableShape) -> str:
    columns = {"status": "$9", "asset_url": "($7::text[])[1]"}
    if shape.has("result_urls"):
        columns["result_urls"] = list_of_text(shape, "result_urls", "$6::text[]")
    if shape.has("asset_urls"):
        columns["asset_urls"] = list_of_text(shape, "asset_urls", "$7::text[]")
    optional = {
        "original_path": "($8::text[])[1]", "preview_status": "'none'", "completed_at": "now()", "updated_at": "now()",
        shape.error_column or "": _nothing(shape),
    }  # fmt: skip
    columns |= {name: value for name, value in optional.items() if name and shape.has(name)}
    return ", ".join(f"{name} = {value}" for name, value in columns.items())


# Not how many there are, for old ones are deleted: the newest one's id, which is more than any turn that was taken.
NEXT_TURN = "(SELECT coalesce(max(id), 0) FROM reconciler.events WHERE generation_id = $1)"
TOLD = """
told AS (
    INSERT INTO reconciler.events (key, generation_id, kind, payload)
    SELECT concat_ws('|', $1::text, {task}, {kind}, {turn}), $1, {kind}, {payload}
      FROM done
    ON CONFLICT (key) DO NOTHING
    RETURNING id, kind)
SELECT EXISTS (SELECT FROM mine) AS held, EXISTS (SELECT FROM done) AS moved,
       (SELECT pg_notify('reconciler_events',
               json_build_object('event', told.id, 'id', $1::text, 'kind', told.kind)::text) FROM told) AS announced
"""


def shown(*, status: str, addresses: str, paths: str, sources: str) -> str:
    """What an event tells of a delivery of the task $3, by the parameters that hold it."""
    return f"""jsonb_build_object('generation_id', $1::text, 'task_id', $3::text, 'status', {status}::text,
               'asset_url', ({addresses}::text[])[1], 'asset_urls', to_jsonb({addresses}::text[]),
               'paths', to_jsonb({paths}::text[]), 'result_urls', to_jsonb({sources}::text[]),
               'refunded', (SELECT refunded_at IS NOT NULL FROM mine))"""


def proof(*, n: str, version: str, by: str) -> str:
    """The receipt still to be written, and how many of the first $4 assets of the task $3 are proven with it."""
    return f"""receipt AS (
    UPDATE reconciler.assets a SET version = {version}, verified_by = {by}, stored_at = now()
      FROM mine WHERE a.generation_id = mine.generation_id AND a.task_id = $3 AND a.n = {n}::int RETURNING a.n),
proof AS (
    SELECT count(*) AS n FROM reconciler.assets a JOIN mine USING (generation_id)
     WHERE a.task_id = $3 AND a.n < $4 AND (a.verified_by IS NOT NULL OR a.n IN (SELECT n FROM receipt)))"""


def finish(shape: TableShape) -> str:
    """Success in one statement: proof, the application's row, the timing, the bookkeeping, the event.

    $3 task, $4 number of sources, $5 asset_url as read, $6 sources, $7 addresses, $8 paths, $9 the word for success,
    $10 seconds it took at the provider, $11 model, $12 status as read, $13 the event's kind, $14 number, $15 version,
    $16 proof of the asset whose receipt is still to be written, null where there is none; it is kept in any case;
    $17 until the second look.
    """
    payload = shown(status="$9", addresses="$7", paths="$8", sources="$6")
    told = TOLD.format(task="$3::text", kind="$13::text", payload=payload, turn=NEXT_TURN)
    return f"""{MINE},
{proof(n="$14", version="$15", by="$16")},
done AS (
    UPDATE public.generations g SET {_success_columns(shape)} FROM mine, proof
     WHERE g.id = $1::text::{shape.id_type} AND proof.n = $4
       AND g.task_id = $3 AND g.status = $12 AND g.asset_url IS NOT DISTINCT FROM $5
    RETURNING g.id),
replaced AS (
    DELETE FROM reconciler.assets a USING done WHERE a.generation_id = $1 AND a.task_id <> $3 RETURNING a.path),
left_behind AS (
    INSERT INTO reconciler.orphans (path, why)
    SELECT path, 'the generation got another task' FROM replaced WHERE path <> ALL($8::text[])
    ON CONFLICT DO NOTHING),
timed AS (
    INSERT INTO reconciler.timings (model, took)
    SELECT left($11::text, 200), $10::float8 FROM done WHERE $10::float8 IS NOT NULL),
closed AS (
    UPDATE reconciler.work w
       SET lease = NULL, lease_until = NULL, due_at = NULL, early_at = NULL, delivered_at = now(),
           audit_at = now() + $17::interval, lost_at = NULL, seen_status = $9, {given("$3")},
           gave_up = false, reopened = false, misses = 0, why = NULL, finding = NULL
      FROM mine, done WHERE w.generation_id = mine.generation_id),
{told}"""


def _reason(shape: TableShape, column: str) -> str:
    """The reason in the column's own type; the cast cuts it to what a varchar(n) takes."""
    kind = shape.columns[column]
    return f"to_jsonb($4::text)::{kind}" if kind in {"json", "jsonb"} else f"$4::text::{kind}"


def fail(shape: TableShape, *, write: bool) -> str:
    """Failed in one statement; where `write` is off only the event and the bookkeeping.

    $3 task, $4 reason, $5 when to look again after our own give-up (else null), $6 status as read, $7 the event's kind.
    """
    matched = f"g.id = $1::text::{shape.id_type} AND g.task_id IS NOT DISTINCT FROM $3 AND g.status = $6"
    error = f", {shape.error_column} = {_reason(shape, shape.error_column)}" if shape.error_column else ""
    done = f"SELECT g.id FROM public.generations g, mine WHERE {matched}"
    if write:
        done = f"""UPDATE public.generations g SET status = 'failed'{error}{touched(shape)} FROM mine
     WHERE {matched} RETURNING g.id"""
    payload = """jsonb_build_object('generation_id', $1::text, 'task_id', $3::text, 'status', 'failed',
               'reason', $4::text, 'gave_up', $5::timestamptz IS NOT NULL)"""
    # A row that was handed over stays in flight and is seen to fail again and again: that is no new turn.
    told = TOLD.format(task="$3::text", kind="$7::text", payload=payload, turn=NEXT_TURN if write else "'handover'")
    return f"""{MINE},
done AS (
    {done}),
closed AS (
    UPDATE reconciler.work w
       SET lease = NULL, lease_until = NULL, due_at = $5::timestamptz, early_at = NULL,
           gave_up = $5::timestamptz IS NOT NULL, seen_status = {"'failed'" if write else "$6"}, {given("$3")},
           why = $4, finding = NULL, refused = NULL
      FROM mine, done WHERE w.generation_id = mine.generation_id),
{told}"""
