"""Which deliveries are compared with storage next, and what each comparison found.

The comparison itself is `worker/periodic/verification.py`. An audit takes no lease: its claim is the time of the next
audit, moved ahead. A broken delivery loses its receipt and is made due, so that a visit delivers it once more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reconciler.domain.model import Asset
from reconciler.postgres.pool import ASYNC_COMMIT, Database
from reconciler.postgres.predicates import IS_SUCCESS, LEASE_IS_FREE
from reconciler.postgres.records import build
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

CLAIM = timedelta(minutes=15)
"""The shortest time for which a replica claims a delivery; the longest is twice as long.

Where storage is away the delivery is tried again then. Deliveries that were claimed together come back apart."""

PAGE = 200

# A row that shows only a part is due again for weeks, to ask for the rest: its visits do not hurry an audit.
_AT_REST = f"""(w.due_at IS NULL OR (w.due_at > now() AND w.shown IS NOT NULL AND NOT w.reopened))
       AND {LEASE_IS_FREE}"""

# Writes the time of the next audit, in about a month, where our claim :until still stands.
_INTACT = Statement(f"""
UPDATE reconciler.work w SET audit_at = now() + (27.0::float8 + 6.0::float8 * random()) * interval '1 day'
 WHERE generation_id = :generation_id AND audit_at = :until RETURNING {ASYNC_COMMIT}""")

# Takes back that the delivery is lost and writes the receipts of the assets :numbers that have none.
_FOUND_AGAIN = Statement("""
WITH back AS (
    UPDATE reconciler.work w SET lost_at = NULL
     WHERE w.generation_id = :generation_id AND w.seen_task = :task_id AND w.lost_at IS NOT NULL
    RETURNING w.generation_id)
UPDATE reconciler.assets a SET version = found.version, verified_by = found.proof, stored_at = now()
  FROM back, unnest(:numbers::int[], :versions::text[], :proofs::text[]) AS found (n, version, proof)
 WHERE a.generation_id = back.generation_id AND a.task_id = :task_id AND a.n = found.n AND a.verified_by IS NULL""")

# Deletes the receipts of the assets :numbers and makes the generation due; returns a row where it did. A receipt with
# another version than :versions is newer: a visit has repaired the object meanwhile.
_REOPEN = Statement(f"""
WITH mine AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work w
     WHERE w.generation_id = :generation_id AND w.seen_task = :task_id AND {_AT_REST} FOR UPDATE),
cleared AS (
    UPDATE reconciler.assets a SET version = NULL, verified_by = NULL, stored_at = NULL, upload = NULL
      FROM mine, unnest(:numbers::int[], :versions::text[]) AS broken (n, version)
     WHERE a.generation_id = mine.generation_id AND a.task_id = :task_id AND a.n = broken.n
       AND a.verified_by IS NOT NULL AND a.version IS NOT DISTINCT FROM broken.version
    RETURNING a.n)
UPDATE reconciler.work w
   SET reopened = true, due_at = now(), early_at = NULL, audit_at = NULL, trigger = 'sweep', finding = NULL,
       why = :reason, misses = 0, unknowns = 0, empties = 0, stale = coalesce(w.media_deadline < now(), true)
  FROM mine WHERE w.generation_id = mine.generation_id AND EXISTS (SELECT FROM cleared) RETURNING true""")


def _soon_sql(locked: str) -> Statement:
    """Move the next audit of the deliveries among :ids to :seconds from now, where it is later.

    Returns the ids of the rows that were passed over because they are being written (`locked`: SKIP LOCKED).
    """
    return Statement(f"""
WITH at_hand AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY(:ids)
     ORDER BY generation_id FOR UPDATE {locked}),
moved AS (
    UPDATE reconciler.work w SET audit_at = now() + :seconds::float8 * interval '1 second'
      FROM at_hand WHERE w.generation_id = at_hand.generation_id AND w.delivered_at IS NOT NULL
       AND (w.audit_at IS NULL OR w.audit_at > now() + :seconds::float8 * interval '1 second'))
SELECT generation_id FROM reconciler.work WHERE generation_id = ANY(:ids)
EXCEPT SELECT generation_id FROM at_hand""")


_SOON, _SOON_AFTER_OTHERS = _soon_sql("SKIP LOCKED"), _soon_sql("")


async def audit_soon(database: Database, ids: Sequence[str], *, seconds: float, wait: bool = False) -> tuple[str, ...]:
    """Have the deliveries among these generations audited in so many seconds; return those that are being written.

    With `wait` those are waited for. A generation that is not delivered yet needs nothing: its delivery plans an audit
    (`second_look` of the ledger).
    """
    rows = await database.fetch(*(_SOON_AFTER_OTHERS if wait else _SOON)(ids=list(ids), seconds=seconds))
    return tuple(row["generation_id"] for row in rows)


@dataclass(frozen=True, slots=True)
class VerifiedDelivery:
    """One delivery to compare with storage; `until` is our claim on it, None where it was not claimed.

    `shown` is whether the application's row is still a success of this task; it is False where the row is gone.
    `lost` is whether an earlier audit found it broken when KIE had it no more, `repairing` whether a repair is under
    way. `assets` are those with a receipt; of a lost delivery, all. `at` orders the deliveries.
    """

    generation_id: str
    task_id: str | None
    asset_url: str | None
    shown: bool
    lost: bool
    repairing: bool
    assets: tuple[Asset, ...]
    at: datetime
    until: datetime | None = None


class VerificationQueue:
    """Reads deliveries and keeps what their audit found; `term` is a lease's length in seconds."""

    def __init__(self, database: Database, table: PresentTable, *, term: float) -> None:
        self._database = database
        self._term = timedelta(seconds=term)
        self._due = PerShape(table, _due_sql)
        self._since = PerShape(table, _since_sql)

    async def due(self, limit: int) -> list[VerifiedDelivery]:
        """Claim up to `limit` deliveries whose audit is due, the longest overdue first."""
        rows = await self._database.fetch(*self._due.present(term=self._term, limit=limit, claim=CLAIM))
        return sorted((_delivery(row) for row in rows), key=lambda delivery: delivery.at)

    async def page(self, since: timedelta, after: VerifiedDelivery | None = None) -> list[VerifiedDelivery]:
        """Return the next deliveries within this time, the oldest first; claims nothing."""
        at, generation_id = (after.at, after.generation_id) if after else (None, "")
        rows = await self._database.fetch(*self._since.present(since=since, after_at=at, after_id=generation_id))
        return [_delivery(row) for row in rows]

    async def mark_intact(self, delivery: VerifiedDelivery) -> None:
        """Note that the delivery is intact: its next audit is in about a month."""
        if delivery.until is not None:
            await self._database.execute(*_INTACT(generation_id=delivery.generation_id, until=delivery.until))

    async def found_again(self, delivery: VerifiedDelivery, assets: Sequence[Asset]) -> None:
        """Note that a lost delivery is in storage again, with these receipts."""
        proofs = [asset.verified_by for asset in assets]
        await self._database.execute(*_FOUND_AGAIN(proofs=proofs, **_assets(delivery, assets)))

    async def reopen(self, delivery: VerifiedDelivery, broken: Sequence[Asset], why: str) -> bool:
        """Take the receipts of these objects back and make the generation due.

        False where the generation is due or held, or the receipts have changed since they were read.
        """
        statement = _REOPEN(reason=why, term=self._term, **_assets(delivery, broken))
        return await self._database.value(*statement) is True


def _assets(delivery: VerifiedDelivery, assets: Sequence[Asset]) -> Mapping[str, object]:
    return {
        "generation_id": delivery.generation_id,
        "task_id": delivery.task_id,
        "numbers": [asset.n for asset in assets],
        "versions": [asset.version for asset in assets],
    }


def _delivery(row: Mapping[str, Any]) -> VerifiedDelivery:
    return build(
        VerifiedDelivery, {**row, "assets": tuple(build(Asset, one) for one in json.loads(row["assets"] or "[]"))}
    )


def _deliveries_sql(table: TableShape) -> str:
    """Read the deliveries of the CTE `picked` with the application's rows and the receipts."""
    return f"""
SELECT p.generation_id, p.seen_task AS task_id, g.asset_url::text AS asset_url, p.lost_at IS NOT NULL AS lost, p.at,
       p.until, p.reopened AS repairing, coalesce({IS_SUCCESS} AND g.task_id = p.seen_task, false) AS shown,
       (SELECT jsonb_agg(to_jsonb(a) ORDER BY a.n) FROM reconciler.assets a
         WHERE a.generation_id = p.generation_id AND a.task_id = p.seen_task
           AND (a.verified_by IS NOT NULL OR p.lost_at IS NOT NULL))::text AS assets
  FROM picked p LEFT JOIN public.generations g ON g.id = p.generation_id::{table.id_type}"""


def _due_sql(table: TableShape) -> Statement:
    """Read up to :limit deliveries whose audit is due, move the audit on by :claim or more, return them."""
    return Statement(f"""
WITH due AS (
    SELECT w.generation_id, w.audit_at AS at FROM reconciler.work w WHERE w.audit_at <= now() AND {_AT_REST}
     ORDER BY w.audit_at LIMIT :limit FOR UPDATE SKIP LOCKED),
picked AS (
    UPDATE reconciler.work w SET audit_at = now() + (1.0::float8 + random()) * :claim::interval
      FROM due WHERE w.generation_id = due.generation_id
    RETURNING w.generation_id, w.seen_task, w.lost_at, w.reopened, due.at, w.audit_at AS until)
{_deliveries_sql(table)}""")


def _since_sql(table: TableShape) -> Statement:
    """Read and return the PAGE deliveries behind :after_at and :after_id that are younger than :since."""
    return Statement(f"""
WITH picked AS (
    SELECT w.generation_id, w.seen_task, w.lost_at, w.reopened, w.delivered_at AS at, NULL::timestamptz AS until
      FROM reconciler.work w
     WHERE w.delivered_at > now() - :since::interval
       AND (:after_at::timestamptz IS NULL OR (w.delivered_at, w.generation_id) > (:after_at, :after_id))
     ORDER BY w.delivered_at, w.generation_id LIMIT {PAGE}){_deliveries_sql(table)}
 ORDER BY p.at, p.generation_id""")
