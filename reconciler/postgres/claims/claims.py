"""Who may write which generation, and until when: discovery, claims, renewals.

A claim draws a fresh lease; every later write names it (`ledger.py`). Times are the database's. A lease that reaches
further than two terms into the future was drawn by a clock that jumped, and counts as expired.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import cycle

from reconciler.domain.model import OPEN, Trigger
from reconciler.postgres.claims.unacknowledged_claims import UnacknowledgedClaims
from reconciler.postgres.eligibility import EligibleRows, ours_sql
from reconciler.postgres.ledger.task_history import NEVER_HAD
from reconciler.postgres.pool import SOON, Database
from reconciler.postgres.reports.generation_details import as_key
from reconciler.postgres.schema import OPEN_OR_UNHEALED, TableShape

_FREE = "(w.lease_until IS NULL OR w.lease_until < now() OR w.lease_until > now() + 2 * $1::interval)"

_CHANGED = "(w.seen_status, w.seen_task) IS DISTINCT FROM"

# Drawn once for a generation, by whichever replica claims it first: every visit's span names it as its parent.
_TRACE = """'00-' || replace(gen_random_uuid()::text, '-', '') || '-'
           || left(replace(gen_random_uuid()::text, '-', ''), 16) || '-01'"""
_KEPT = f", traceparent = coalesce(w.traceparent, {_TRACE})"

_PICK = f"""
WITH picked AS (
    SELECT w.generation_id FROM reconciler.work w WHERE %s AND {_FREE}
    ORDER BY %s LIMIT $3 FOR UPDATE SKIP LOCKED)
UPDATE reconciler.work w
   SET lease = gen_random_uuid(), lease_until = now() + $1::interval, instance = $2%s
  FROM picked WHERE w.generation_id = picked.generation_id
RETURNING w.generation_id, w.lease, w.woken, w.trigger%s, {SOON}
"""
_SINCE = "w.due_at >= coalesce($4::timestamptz, '-infinity')"
_OLDEST = (f"w.due_at <= now() AND {_SINCE}", "w.due_at")
# By their places in the table: the planner would take 500 names for a reason to read all of it.
_NEWEST = (
    f"""w.ctid = ANY (ARRAY(
             SELECT newest.ctid FROM (SELECT w.ctid, w.misses, w.due_at FROM reconciler.work w
                                       WHERE w.due_at <= now() AND {_SINCE} AND {_FREE}
                                       ORDER BY w.due_at DESC LIMIT 500) newest
              ORDER BY newest.misses > 0, newest.due_at DESC LIMIT 4 * $3))
      AND w.due_at <= now() AND {_FREE}""",
    "w.misses > 0, w.due_at DESC",
)
_SOONEST = (f"{_SINCE} AND w.early_at <= now()", "w.due_at")
_PICKS = tuple(_PICK % (*which, "", "") for which in (_OLDEST, _NEWEST, _SOONEST))
_TRACED_PICKS = tuple(_PICK % (*which, _KEPT, ", w.traceparent") for which in (_OLDEST, _NEWEST, _SOONEST))
# They take turns: where more is due than can be asked about, a backlog of hopeless rows, or their next tries, must not
# stand before what has just become due, nor that before the backlog.
_DUE, _EARLY = _PICKS[:2], _PICKS[2]

# Nothing is due before it, but for what a slow writer is about to commit, which the next sweep finds. While somebody's
# snapshot keeps dead rows, a look would else pass every time at which anything has ever been due.
_FLOOR = "SELECT least(min(due_at), now()) - interval '2 minutes' FROM reconciler.work"

# What is due and held is due again when its lease ends, for whoever holds it may be dead.
_NEXT = f"""
SELECT extract(epoch FROM least(
    (SELECT w.due_at FROM reconciler.work w WHERE w.due_at > now() ORDER BY w.due_at LIMIT 1),
    (SELECT min(w.lease_until) FROM reconciler.work w
      WHERE w.due_at <= now() AND {_SINCE.replace("$4", "$1")} AND w.lease_until > now())
) - clock_timestamp())::float8
"""

# A row that is being written is passed over: whoever writes it may wait for the application for minutes.
_RENEW = f"""
WITH ours AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY($2) AND lease = ANY($3) FOR UPDATE SKIP LOCKED)
UPDATE reconciler.work w SET lease_until = now() + $1::interval
  FROM ours WHERE w.generation_id = ours.generation_id RETURNING w.lease, {SOON}
"""

_STILL_OURS = "SELECT lease FROM reconciler.work WHERE generation_id = ANY($1) AND lease = ANY($2)"

_RELEASE = """
WITH ours AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY($1) AND lease = ANY($2) FOR UPDATE SKIP LOCKED)
UPDATE reconciler.work w
   SET lease = NULL, lease_until = NULL, due_at = clock_timestamp() + $3 * interval '1 second', early_at = NULL
  FROM ours WHERE w.generation_id = ours.generation_id
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one generation until the lease ends.

    `woken` tells later whether somebody woke it meanwhile; `traceparent` names its trace, None where nobody traces.
    """

    generation_id: str
    lease: uuid.UUID
    woken: int
    trigger: Trigger
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class TakenClaims:
    """What came of some wakes: the claims, and the names to wake again because their rows are just being written."""

    claims: list[Claim]
    busy: tuple[str, ...]


class Claims:
    """The claims of one instance; `term` is a lease's length in seconds, `traced` says that traces are told.

    `doubts` are about claims without an answer.
    """

    def __init__(
        self,
        database: Database,
        shape: TableShape,
        reach: EligibleRows,
        *,
        instance: uuid.UUID,
        term: float,
        traced: bool = False,
    ) -> None:
        self._database = database
        self._instance = instance
        self._term = timedelta(seconds=term)
        self._ours = reach.parameters
        self._id_type = shape.id_type
        *self._due, self._early = _TRACED_PICKS if traced else _PICKS
        self._turns = cycle(range(len(_DUE)))
        self._woken = _woken_sql(shape, traced=traced)
        self._discover = _discover_sql(shape)
        self._floor: datetime | None = None
        self.doubts = UnacknowledgedClaims(database, instance, term)

    async def woken(self, wakes: Mapping[str, Trigger]) -> list[Claim]:
        """Claim those of the woken generations that are ours, free, and due or changed; wake the others' holders."""
        return (await self.take(wakes)).claims

    async def take(self, wakes: Mapping[str, Trigger]) -> TakenClaims:
        """Do what `woken` does, and tell also which wakes have to be repeated."""
        # Anybody may NOTIFY: a name that no row can have must not break the statement for the others.
        keys = {as_key(name, self._id_type): trigger.value for name, trigger in wakes.items()}
        keys.pop(None, None)
        tokens = [uuid.uuid4() for _ in keys]
        rows = await self.doubts.claimed(
            self._woken, self._term, self._instance, *self._ours, list(keys), tokens, list(keys.values())
        )
        return TakenClaims(
            [_claim(row) for row in rows if row["claimed"]],
            tuple(row["generation_id"] for row in rows if row["claimed"] is None),
        )

    async def due(self, limit: int) -> list[Claim]:
        """Claim up to `limit` generations whose time has come: the longest overdue, every second time the newest.

        The newest without a miss come before those with misses.
        """
        rows = await self.doubts.claimed(self._due[next(self._turns)], self._term, self._instance, limit, self._floor)
        return [_claim(row) for row in rows]

    async def early(self, limit: int) -> list[Claim]:
        """Claim up to `limit` generations before they are due: a request would else be wasted."""
        rows = await self.doubts.claimed(self._early, self._term, self._instance, limit, self._floor)
        return [_claim(row) for row in rows]

    async def next_due(self) -> float | None:
        """Return the seconds until a generation is due or the lease of a due one ends, None when none is waiting."""
        seconds: float | None = await self._database.value(_NEXT, self._floor)
        return seconds

    async def renew(self, held: Sequence[Claim]) -> set[uuid.UUID]:
        """Prolong these leases by a term and return those that were; the others are lost, or just being used."""
        rows = await self._database.fetch(
            _RENEW,
            self._term,
            [claim.generation_id for claim in held],
            [claim.lease for claim in held],
        )
        return {row["lease"] for row in rows}

    async def lost(self, held: Sequence[Claim]) -> set[uuid.UUID]:
        """Return those of these leases that are not ours any more."""
        leases = [claim.lease for claim in held]
        rows = await self._database.fetch(_STILL_OURS, [claim.generation_id for claim in held], leases)
        return set(leases) - {row["lease"] for row in rows}

    async def release(self, held: Sequence[Claim], *, seconds: float = 5.0) -> None:
        """Give these generations back, due again in so many seconds."""
        ids, leases = [claim.generation_id for claim in held], [claim.lease for claim in held]
        await self._database.execute(_RELEASE, ids, leases, seconds)

    async def discover(self) -> int:
        """Find open rows without bookkeeping, and what nobody told of: a change, an offered task, a lost address.

        Returns how many were found.
        """
        self._floor = await self._database.value(_FLOOR)
        rows = await self._database.fetch(self._discover, self._term, *self._ours)
        return len(rows)


def _claim(row: Mapping[str, object]) -> Claim:
    lease, woken = row["lease"], row["woken"]
    assert isinstance(lease, uuid.UUID)
    assert isinstance(woken, int)
    trigger, trace = Trigger(str(row["trigger"] or Trigger.POLL)), row.get("traceparent")
    return Claim(str(row["generation_id"]), lease, woken, trigger, None if trace is None else str(trace))


def _woken_sql(shape: TableShape, *, traced: bool) -> str:
    drawn, kept, told, none = (f", {_TRACE}", _KEPT, ", w.traceparent", ", NULL") if traced else ("", "", "", "")
    asked = "('callback', 'sync', 'backfill')"
    mendable = """EXISTS (
         SELECT FROM reconciler.work w WHERE w.generation_id = wake.woken_id AND (w.gave_up OR w.reopened))"""
    return f"""
WITH wake AS (SELECT * FROM unnest($6::text[], $7::uuid[], $8::text[]) AS u (woken_id, token, word)),
at_hand AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY($6)
    ORDER BY generation_id FOR UPDATE SKIP LOCKED),
busy AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY($6)
    EXCEPT SELECT generation_id FROM at_hand),
ours AS (
    SELECT g.id::text AS woken_id, g.status AS seen_status, g.task_id AS seen_task, wake.token, wake.word
      FROM wake JOIN public.generations g ON g.id = wake.woken_id::{shape.id_type}
     WHERE {ours_sql(shape, 3, mendable)} AND wake.woken_id NOT IN (SELECT generation_id FROM busy)),
taken AS (
    INSERT INTO reconciler.work AS w
           (generation_id, due_at, lease, lease_until, instance, trigger, seen_status,
            seen_task{told and ", traceparent"})
    SELECT woken_id, now(), token, now() + $1::interval, $2, word, seen_status, seen_task{drawn}
      FROM ours ORDER BY woken_id
    ON CONFLICT (generation_id) DO UPDATE
       SET lease = CASE WHEN {_FREE} THEN excluded.lease ELSE w.lease END,
           lease_until = CASE WHEN {_FREE} THEN excluded.lease_until ELSE w.lease_until END,
           instance = CASE WHEN {_FREE} THEN excluded.instance ELSE w.instance END,
           woken = CASE WHEN {_FREE} THEN w.woken ELSE w.woken + 1 END,
           trigger = excluded.trigger,
           due_at = now(){kept}
     WHERE ({_FREE} AND w.due_at <= now())
        OR {_CHANGED} (excluded.seen_status, excluded.seen_task)
        OR excluded.trigger IN {asked}
    RETURNING w.generation_id, w.lease, w.woken, w.trigger, w.lease = ANY($7) AS claimed{told})
SELECT *, {SOON} FROM taken
 UNION ALL SELECT generation_id, NULL, NULL, NULL, NULL{none}, NULL FROM busy
"""


# A callback may come while nobody can look: what it offers to a row without a task must not wait for the row's time.
_OFFERED = f"""(g.task_id IS NULL AND w.due_at > now() AND EXISTS (
           SELECT FROM reconciler.callbacks c WHERE c.generation_id = w.generation_id AND {NEVER_HAD}
              AND c.at > greatest(w.looked_at, now() - interval '14 days')))"""

# Delivered, and the application has taken its address away since, which changes neither status nor task; `why` is what
# a visit that left the row has written.
_UNSHOWN = "(w.delivered_at IS NOT NULL AND w.due_at IS NULL AND w.why IS NULL)"


def _discover_sql(shape: TableShape) -> str:
    open_words = ", ".join(f"'{word}'" for word in OPEN)
    return f"""
WITH found AS (
    SELECT g.id::text AS found_id, g.status, g.task_id, w.generation_id IS NOT NULL AS known
      FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
     WHERE {OPEN_OR_UNHEALED}
       AND {ours_sql(shape, 2)}
       AND (g.status IN ({open_words}) OR g.created_at > now() - interval '14 days')
       AND (w.generation_id IS NULL OR {_CHANGED} (g.status, g.task_id) OR {_OFFERED} OR {_UNSHOWN})),
at_hand AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id IN (SELECT found_id FROM found WHERE known)
    ORDER BY generation_id FOR UPDATE SKIP LOCKED)
INSERT INTO reconciler.work AS w (generation_id, due_at, trigger, seen_status, seen_task)
SELECT found_id, now(), 'sweep', status, task_id FROM found
 WHERE NOT known OR found_id IN (SELECT generation_id FROM at_hand)
 ORDER BY found_id
ON CONFLICT (generation_id) DO UPDATE SET due_at = now(), trigger = 'sweep' WHERE {_FREE}
RETURNING w.generation_id
"""
