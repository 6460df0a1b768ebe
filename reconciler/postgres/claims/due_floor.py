"""The time before which no row is due, read by each sweep; times that a jumping clock has written come back with it."""

from reconciler.postgres.predicates import AUDIT_TOO_FAR, DUE_TOO_FAR, EVENT_TOO_FAR, far_ahead
from reconciler.postgres.statement import Statement

# Brings back the times that a clock has written which jumped. Each is the end of an index, where nothing else lies.
_BRING_BACK = f"""
WITH far AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w WHERE {DUE_TOO_FAR}
    ORDER BY w.due_at FOR UPDATE SKIP LOCKED),
due AS (
    UPDATE reconciler.work w SET due_at = now(), early_at = NULL
     WHERE w.generation_id = ANY (ARRAY(SELECT generation_id FROM far))),
late AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w WHERE {AUDIT_TOO_FAR} AND w.due_at IS NULL
    ORDER BY w.audit_at FOR UPDATE SKIP LOCKED),
audited AS (
    UPDATE reconciler.work w SET audit_at = now()
     WHERE w.generation_id = ANY (ARRAY(SELECT generation_id FROM late))),
ahead AS MATERIALIZED (
    SELECT w.generation_id FROM reconciler.work w WHERE {far_ahead("w.delivered_at", "5 seconds")}
    ORDER BY w.delivered_at FOR UPDATE SKIP LOCKED),
delivered AS (
    UPDATE reconciler.work w SET delivered_at = now()
     WHERE w.generation_id = ANY (ARRAY(SELECT generation_id FROM ahead))),
events AS (
    UPDATE reconciler.events SET next_at = now()
     WHERE announced_at IS NULL AND dead_at IS NULL AND {EVENT_TOO_FAR}),
instances AS (UPDATE reconciler.instances SET seen_at = now() WHERE {far_ahead("seen_at", "5 seconds")}),
watching AS (UPDATE reconciler.watching SET until = now() WHERE {far_ahead("until", "5 minutes")})"""

# Reads the first due time. Returns a time before which nothing is due, except for rows that a slow writer is about to
# commit; the next sweep finds those. Without it, a claim would pass every former due time in the index for as long as
# an old snapshot keeps dead rows.
DUE_FLOOR = Statement(
    f"{_BRING_BACK} SELECT least((SELECT min(due_at) FROM reconciler.work), now()) - interval '2 minutes'"
)
