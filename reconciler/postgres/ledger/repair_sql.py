"""The SQL texts of the two ends of a repair: delivered once more, and lost. The ledger runs them.

Both are fenced like every write about a claimed generation, and neither moves the application's row from its success.
"""

from __future__ import annotations

from reconciler.postgres.ledger.ledger_sql import (
    FACTS,
    MINE,
    NEXT_TURN,
    SET_FACTS,
    TOLD,
    list_of_text,
    proof,
    shown,
    touched,
)
from reconciler.postgres.ledger.task_history import given
from reconciler.postgres.schema import TableShape


def repaired(shape: TableShape) -> str:
    """All receipts are there again: the bookkeeping, the event, and the application's row where an address changes.

    $3 task, $4 number of sources, $5 asset_url as read, $6 addresses, $7 paths, $8 status as read, $9 number, $10
    version, $11 proof of the asset whose receipt is still to be written, $12 until the second look, $13 sources.
    """
    columns = {"asset_url": "($6::text[])[1]"}
    if shape.has("asset_urls"):
        columns["asset_urls"] = list_of_text(shape, "asset_urls", "$6::text[]")
    differs = " OR ".join(f"g.{name}::text IS DISTINCT FROM ({value})::text" for name, value in columns.items())
    if shape.has("original_path"):
        columns["original_path"] = "($7::text[])[1]"
    written = ", ".join(f"{name} = {value}" for name, value in columns.items())
    matched = f"""g.id = $1::text::{shape.id_type} AND g.task_id = $3 AND g.status = $8
       AND g.asset_url IS NOT DISTINCT FROM $5"""
    payload = shown(status="$8", addresses="$6", paths="$7", sources="$13")
    told = TOLD.format(task="$3::text", kind="'repaired'::text", payload=payload, turn=NEXT_TURN)
    return f"""{MINE},
{proof(n="$9", version="$10", by="$11")},
done AS (SELECT g.id FROM public.generations g, mine, proof WHERE {matched} AND proof.n = $4),
changed AS (
    UPDATE public.generations g SET {written}{touched(shape)} FROM done
     WHERE {matched} AND ({differs})),
closed AS (
    UPDATE reconciler.work w
       SET lease = NULL, lease_until = NULL, due_at = NULL, early_at = NULL, audit_at = now() + $12::interval,
           lost_at = NULL, seen_status = $8, {given("$3")}, reopened = false, misses = 0, why = NULL, finding = NULL
      FROM mine, done WHERE w.generation_id = mine.generation_id),
{told}"""


_LOST_TOLD = TOLD.format(
    task="$4::text",
    kind="'lost'::text",
    turn=NEXT_TURN,
    payload=f"""jsonb_build_object('generation_id', $1::text, 'task_id', $4::text, 'status', $3::text,
               'asset_url', ${len(FACTS) + 4}::text, 'paths', (
                   SELECT jsonb_agg(a.path ORDER BY a.n) FROM reconciler.assets a
                    WHERE a.generation_id = $1 AND a.task_id = $4 AND a.verified_by IS NULL))""",
)

LOST = f"""{MINE},
done AS (SELECT generation_id FROM mine),
closed AS (
    UPDATE reconciler.work w
       SET {SET_FACTS}, lease = NULL, lease_until = NULL, due_at = NULL, early_at = NULL, lost_at = now(),
           audit_at = now() + interval '30 days'
      FROM mine WHERE w.generation_id = mine.generation_id),
{_LOST_TOLD}"""
"""KIE has it no more: $3 the status, from $4 on the facts, behind them asset_url, which stays as it is."""
