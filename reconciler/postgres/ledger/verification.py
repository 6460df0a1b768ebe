"""Which deliveries are to be compared with storage, and what came of it.

The comparing is `worker/periodic/verification.py`.

An audit takes no lease: its claim is the time of the next one, moved ahead. What is found broken loses its receipt and
is due, so that a visit delivers it once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reconciler.domain.model import SUCCEEDED, Asset
from reconciler.postgres.pool import SOON, Database
from reconciler.postgres.reports.generation_details import built
from reconciler.postgres.schema import TableShape

CLAIM = timedelta(minutes=15)
"""For so long at least, and at most twice as long, a delivery that one replica is comparing is nobody else's.

Where storage is away it is tried then; those that were claimed together do not come back together."""

PAGE = 200

_FREE = "w.due_at IS NULL AND (w.lease_until IS NULL OR w.lease_until < now())"

_KEPT = f"""
UPDATE reconciler.work w SET audit_at = now() + (27 + 6 * random()) * interval '1 day'
 WHERE generation_id = $1 AND audit_at = $2 RETURNING {SOON}"""

_FOUND_AGAIN = """
WITH back AS (
    UPDATE reconciler.work w SET lost_at = NULL
     WHERE w.generation_id = $1 AND w.seen_task = $2 AND w.lost_at IS NOT NULL RETURNING w.generation_id)
UPDATE reconciler.assets a SET version = found.version, verified_by = found.proof, stored_at = now()
  FROM back, unnest($3::int[], $4::text[], $5::text[]) AS found (n, version, proof)
 WHERE a.generation_id = back.generation_id AND a.task_id = $2 AND a.n = found.n AND a.verified_by IS NULL"""

# A receipt that is not the one that was read is newer: somebody else has repaired it meanwhile.
_REOPEN = f"""
WITH mine AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work w WHERE w.generation_id = $1 AND w.seen_task = $2 AND {_FREE} FOR UPDATE),
cleared AS (
    UPDATE reconciler.assets a SET version = NULL, verified_by = NULL, stored_at = NULL, upload = NULL
      FROM mine, unnest($3::int[], $4::text[]) AS broken (n, version)
     WHERE a.generation_id = mine.generation_id AND a.task_id = $2 AND a.n = broken.n
       AND a.verified_by IS NOT NULL AND a.version IS NOT DISTINCT FROM broken.version
    RETURNING a.n)
UPDATE reconciler.work w
   SET reopened = true, due_at = now(), early_at = NULL, audit_at = NULL, trigger = 'sweep', finding = NULL, why = $5,
       misses = 0, unknowns = 0, empties = 0, stale = coalesce(w.media_deadline < now(), true)
  FROM mine WHERE w.generation_id = mine.generation_id AND EXISTS (SELECT FROM cleared) RETURNING true"""


@dataclass(frozen=True, slots=True)
class VerifiedDelivery:
    """One delivery as it is to be compared; `until` is our claim on it, None where it was not claimed.

    `shown` tells whether the application's row is still a success of this task; it is False where the row is gone.
    `lost` was found broken before, when KIE had it no more.
    """

    generation_id: str
    task_id: str | None
    asset_url: str | None
    shown: bool
    lost: bool
    assets: tuple[Asset, ...]
    at: datetime
    until: datetime | None = None


class VerificationQueue:
    """Reads deliveries and keeps what their audit found."""

    def __init__(self, database: Database, shape: TableShape) -> None:
        self._database = database
        self._due = _due_sql(shape)
        self._since = _since_sql(shape)

    async def due(self, limit: int) -> list[VerifiedDelivery]:
        """Claim up to so many deliveries whose audit is due, the longest overdue first."""
        rows = await self._database.fetch(self._due, limit, CLAIM)
        return sorted((_audited(row) for row in rows), key=lambda one: one.at)

    async def page(self, since: timedelta, after: VerifiedDelivery | None = None) -> list[VerifiedDelivery]:
        """Return the next deliveries within this time, the oldest first; claims nothing."""
        start = (after.at, after.generation_id) if after else (None, "")
        rows = await self._database.fetch(self._since, since, *start)
        return [_audited(row) for row in rows]

    async def kept(self, one: VerifiedDelivery) -> None:
        """It was looked at: the next time is about a month away."""
        if one.until is not None:
            await self._database.execute(_KEPT, one.generation_id, one.until)

    async def found_again(self, one: VerifiedDelivery, assets: Sequence[Asset]) -> None:
        """What was lost is there again: it has these receipts."""
        numbers, versions = [asset.n for asset in assets], [asset.version for asset in assets]
        proofs = [asset.verified_by for asset in assets]
        await self._database.execute(_FOUND_AGAIN, one.generation_id, one.task_id, numbers, versions, proofs)

    async def reopen(self, one: VerifiedDelivery, broken: Sequence[Asset], why: str) -> bool:
        """Take the receipts of these objects back and make the generation due.

        False where it is in somebody's hands, or the receipts are others by now.
        """
        numbers, versions = [asset.n for asset in broken], [asset.version for asset in broken]
        reopened = await self._database.value(_REOPEN, one.generation_id, one.task_id, numbers, versions, why)
        return reopened is True


def _audited(row: Mapping[str, Any]) -> VerifiedDelivery:
    assets = tuple(built(Asset, item) for item in json.loads(row["assets"] or "[]"))
    plain = {name: row[name] for name in ("generation_id", "task_id", "asset_url", "shown", "lost", "at", "until")}
    return VerifiedDelivery(assets=assets, **plain)


def _told(shape: TableShape) -> str:
    words = ", ".join(f"'{word}'" for word in SUCCEEDED)
    return f"""
SELECT t.generation_id, t.seen_task AS task_id, g.asset_url::text AS asset_url, t.lost_at IS NOT NULL AS lost, t.at,
       t.until, coalesce(g.status IN ({words}) AND g.task_id = t.seen_task, false) AS shown,
       (SELECT jsonb_agg(to_jsonb(a) ORDER BY a.n) FROM reconciler.assets a
         WHERE a.generation_id = t.generation_id AND a.task_id = t.seen_task)::text AS assets
  FROM taken t LEFT JOIN public.generations g ON g.id = t.generation_id::{shape.id_type}"""


def _due_sql(shape: TableShape) -> str:
    return f"""
WITH due AS (
    SELECT w.generation_id, w.audit_at AS at FROM reconciler.work w WHERE w.audit_at <= now() AND {_FREE}
     ORDER BY w.audit_at LIMIT $1 FOR UPDATE SKIP LOCKED),
taken AS (
    UPDATE reconciler.work w SET audit_at = now() + (1 + random()) * $2::interval
      FROM due WHERE w.generation_id = due.generation_id
    RETURNING w.generation_id, w.seen_task, w.lost_at, due.at, w.audit_at AS until){_told(shape)}"""


def _since_sql(shape: TableShape) -> str:
    return f"""
WITH taken AS (
    SELECT w.generation_id, w.seen_task, w.lost_at, w.delivered_at AS at, NULL::timestamptz AS until
      FROM reconciler.work w
     WHERE w.delivered_at > now() - $1::interval
       AND ($2::timestamptz IS NULL OR (w.delivered_at, w.generation_id) > ($2, $3))
     ORDER BY w.delivered_at, w.generation_id LIMIT {PAGE}){_told(shape)}
 ORDER BY t.at, t.generation_id"""
