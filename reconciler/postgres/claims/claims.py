"""Which instance may write which generation, and until when: discovery, claims, renewals.

A claim draws a fresh lease; every later write names it (`ledger`). Times are the database's. The worker claims,
renews and releases; the scheduler discovers.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType

from reconciler.domain.model import Trigger
from reconciler.domain.poll_interval import MIN_INTERVAL, MIN_POLL_PRICE, PRIORS, interval
from reconciler.postgres.claims.deleted_rows import DeletedRows
from reconciler.postgres.claims.discovery import CHANGED, Discovery
from reconciler.postgres.claims.due_floor import DUE_FLOOR
from reconciler.postgres.claims.queues import LATE, WEIGHTS, Queue, picked_due, queue_of
from reconciler.postgres.claims.unacknowledged_claims import UnacknowledgedClaims
from reconciler.postgres.eligibility import EligibleRows, eligible, unstored
from reconciler.postgres.ledger.verification import audit_soon
from reconciler.postgres.pool import ASYNC_COMMIT, Database
from reconciler.postgres.predicates import (
    CREATED,
    IN_FLIGHT,
    IS_SUCCESS,
    LEASE_IS_FREE,
    TASK,
    may_recover,
)
from reconciler.postgres.records import as_key
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

# Drawn once for a generation, by the replica that claims it first: every visit's span names it as its parent.
_NEW_TRACE = """'00-' || replace(gen_random_uuid()::text, '-', '') || '-'
           || left(replace(gen_random_uuid()::text, '-', ''), 16) || '-01'"""
_SET_TRACE = f", traceparent = coalesce(w.traceparent, {_NEW_TRACE})"

_SINCE = "w.due_at >= coalesce(:floor::timestamptz, '-infinity')"


def _claim_sql(picked: str, *, traced: bool) -> Statement:
    """Write the lease of :instance into the rows that the CTE `picked` has locked; return their claims."""
    return Statement(f"""
WITH {picked}
UPDATE reconciler.work w
   SET lease = gen_random_uuid(), lease_until = now() + :term::interval,
       instance = :instance{_SET_TRACE if traced else ""}
  FROM picked WHERE w.generation_id = picked.generation_id
RETURNING w.generation_id, w.lease, w.woken, w.trigger, {queue_of("w.line", LATE)} AS queue
          {", w.traceparent" if traced else ""}, {ASYNC_COMMIT}""")


_SOONEST = f"""picked AS (
    SELECT w.generation_id FROM reconciler.work w WHERE {_SINCE} AND w.early_at <= now() AND {LEASE_IS_FREE}
    ORDER BY w.due_at LIMIT :limit FOR UPDATE SKIP LOCKED)"""

FIRST_LOOK = timedelta(seconds=interval(PRIORS[None], 0.0, MIN_POLL_PRICE))
"""The age at which a row in flight is worth a first look where no request is spare; its visit knows its model."""

_LOCKED = f"""picked AS (
    SELECT w.generation_id FROM reconciler.work w WHERE w.write_at <= now() AND {LEASE_IS_FREE}
    ORDER BY w.write_at LIMIT :limit FOR UPDATE SKIP LOCKED)"""

# Reads due times and leases. Returns the seconds until a row becomes due, or until the lease of a due row ends: its
# holder may be dead.
_NEXT = Statement(f"""
SELECT extract(epoch FROM least(
    (SELECT w.due_at FROM reconciler.work w WHERE w.due_at > now() ORDER BY w.due_at LIMIT 1),
    (SELECT min(w.lease_until) FROM reconciler.work w
      WHERE w.due_at <= now() AND {_SINCE} AND w.lease_until > now())
) - clock_timestamp())::float8""")

# Reads when writes that wait for a lock are tried again. Returns the seconds until the first one, no row without any.
_NEXT_LOCKED = Statement(f"""
SELECT extract(epoch FROM w.write_at - clock_timestamp())::float8 FROM reconciler.work w
 WHERE w.write_at IS NOT NULL AND {LEASE_IS_FREE} ORDER BY w.write_at LIMIT 1""")

_OURS = """
WITH ours AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY(:ids) AND lease = ANY(:leases)
    FOR UPDATE SKIP LOCKED)"""

# Reads and prolongs these leases; returns those that it prolonged. A row that is being written is passed over: its
# writer may wait for the application for minutes.
_RENEW = Statement(f"""{_OURS}
UPDATE reconciler.work w SET lease_until = now() + :term::interval
  FROM ours WHERE w.generation_id = ours.generation_id RETURNING w.lease, {ASYNC_COMMIT}""")

# Reads these leases, returns those that still hold their rows.
_STILL_OURS = Statement("SELECT lease FROM reconciler.work WHERE generation_id = ANY(:ids) AND lease = ANY(:leases)")

# Ends these leases and makes their rows due again in :seconds, for a visit; passes over a row that is being written.
_RELEASE = Statement(f"""{_OURS}
UPDATE reconciler.work w
   SET lease = NULL, lease_until = NULL, early_at = NULL, write_at = NULL,
       due_at = clock_timestamp() + :seconds::float8 * interval '1 second'
  FROM ours WHERE w.generation_id = ours.generation_id""")


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one generation until the lease ends.

    `woken` shows later whether the row was woken meanwhile; `traceparent` names its trace, None without tracing;
    `queue` says of whose share its place is. `shape` is the application's table as it was then: the visit keeps to it.
    """

    generation_id: str
    lease: uuid.UUID
    woken: int
    trigger: Trigger
    traceparent: str | None = None
    queue: Queue = Queue.WOKEN
    shape: TableShape | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class WakeResult:
    """What came of some wakes: the claims, and the ids to wake again because their rows are being written."""

    claims: list[Claim]
    busy: tuple[str, ...]


class Claims:
    """The claims of one instance; `term` is a lease's length in seconds, `traced` turns traces on.

    Leases are renewed through `renewals`, so that no other statement delays them; None for `database`.
    """

    def __init__(
        self,
        database: Database,
        table: PresentTable,
        eligible_rows: EligibleRows,
        *,
        instance: uuid.UUID,
        term: float,
        traced: bool = False,
        renewals: Database | None = None,
    ) -> None:
        self._database = database
        self._renewals = renewals or database
        self._instance = instance
        self._term = timedelta(seconds=term)
        self._eligible = eligible_rows.parameters
        self._table = table
        self._due = _claim_sql(picked_due(_SINCE), traced=traced)
        self._early = _claim_sql(_SOONEST, traced=traced)
        self._locked = _claim_sql(_LOCKED, traced=traced)
        self._woken = PerShape(table, partial(_woken_sql, traced=traced))
        self._discovery = Discovery(database, table, self._eligible, self._term)
        self._floor: datetime | None = None
        self.deleted_rows = DeletedRows(database, table, self._term)
        self.unacknowledged = UnacknowledgedClaims(database, instance, term)

    async def woken(self, wakes: Mapping[str, Trigger]) -> list[Claim]:
        """Claim the woken generations that are ours, free, and due or changed; wake the holders of the others."""
        return (await self.take(wakes, limit=len(wakes), ended=len(wakes))).claims

    async def take(self, wakes: Mapping[str, Trigger], *, limit: int, ended: int) -> WakeResult:
        """Do what `woken` does, for the first `limit` rows in flight or requested and the first `ended` other ones.

        The wakes are in order. Further rows become due, new ones when they are worth a first look, and wait for their
        share as due rows. What has ended with its asset, or is not ours, costs nothing more. Returns also which wakes
        have to be repeated.
        """
        # Anybody may NOTIFY: a name that no row can have must not break the statement for the others.
        shape = self._table.shape
        keys = {as_key(name, shape.id_type): trigger.value for name, trigger in wakes.items()}
        keys.pop(None, None)
        rows = await self.unacknowledged.claimed(
            self._woken.of(shape),
            term=self._term,
            instance=self._instance,
            ids=list(keys),
            leases=[uuid.uuid4() for _ in keys],
            triggers=list(keys.values()),
            limit=limit,
            ended=ended,
            first_look=FIRST_LOOK,
            **self._eligible,
        )
        return WakeResult(
            [_claim(row, shape) for row in rows if row["claimed"]],
            tuple(row["generation_id"] for row in rows if row["claimed"] is None),
        )

    async def due(self, limit: int, held: Mapping[Queue, int] = MappingProxyType({})) -> list[Claim]:
        """Claim up to `limit` generations that are due, by the shares of their queues and by what their wait wastes.

        `held` are the places that each queue holds already.
        """
        return await self._pick(
            self._due, limit, queues=list(WEIGHTS), weights=list(WEIGHTS.values()),
            held=[held.get(queue, 0) for queue in WEIGHTS],
        )  # fmt: skip

    async def early(self, limit: int) -> list[Claim]:
        """Claim up to `limit` generations before they are due, to use a request that would else be wasted."""
        return await self._pick(self._early, limit)

    async def locked(self, limit: int) -> list[Claim]:
        """Claim up to `limit` generations whose write waits for a lock and is to be tried again."""
        shape = self._table.shape
        rows = await self.unacknowledged.claimed(self._locked, term=self._term, instance=self._instance, limit=limit)
        return [_claim(row, shape) for row in rows]

    async def next_locked(self) -> float | None:
        """Return the seconds until a write that waits for a lock is tried again, None when none waits."""
        seconds: float | None = await self._database.value(*_NEXT_LOCKED(term=self._term))
        return seconds

    async def _pick(self, statement: Statement, limit: int, **shares: object) -> list[Claim]:
        # First: a table that cannot be used ends the claim before anything is claimed.
        shape = self._table.shape
        rows = await self.unacknowledged.claimed(
            statement, term=self._term, instance=self._instance, limit=limit, floor=self._floor, **shares
        )
        return [_claim(row, shape) for row in rows]

    async def next_due(self) -> float | None:
        """Return the seconds until a generation is due or the lease of a due one ends, None when none is waiting."""
        seconds: float | None = await self._database.value(*_NEXT(floor=self._floor))
        return seconds

    async def renew(self, held: Sequence[Claim]) -> set[uuid.UUID]:
        """Prolong these leases by a term and return those that were; the others are lost, or being written under."""
        rows = await self._renewals.fetch(*_RENEW(term=self._term, **_leases(held)))
        return {row["lease"] for row in rows}

    async def lost(self, held: Sequence[Claim]) -> set[uuid.UUID]:
        """Return the leases among these that are not ours any more."""
        rows = await self._renewals.fetch(*_STILL_OURS(**_leases(held)))
        return {claim.lease for claim in held} - {row["lease"] for row in rows}

    async def release(self, held: Sequence[Claim], *, seconds: float = 5.0) -> None:
        """Give these generations back, due again in so many seconds."""
        await self._database.execute(*_RELEASE(seconds=seconds, **_leases(held)))

    async def audit_lost(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Have deliveries audited a lease from now whose lease a visit here has lost; return those to try again.

        What the visit still sent has arrived by then.
        """
        return await audit_soon(self._database, ids, seconds=self._term.total_seconds())

    async def discover(self) -> int:
        """Make due what no notification announced, and return how many rows that were.

        These are open rows without bookkeeping, changed rows, rows that a callback offers a task, and delivered rows
        that lost their address, or show one at the provider instead.
        """
        self._floor = await self._database.value(*DUE_FLOOR())
        return await self._discovery.discover()

    async def retry_refused(self) -> None:
        """Make due what the application's table has refused, because the table is another one now."""
        await self._discovery.retry_refused()


def _leases(held: Sequence[Claim]) -> Mapping[str, object]:
    return {"ids": [claim.generation_id for claim in held], "leases": [claim.lease for claim in held]}


def _claim(row: Mapping[str, object], shape: TableShape) -> Claim:
    lease, woken = row["lease"], row["woken"]
    assert isinstance(lease, uuid.UUID)
    assert isinstance(woken, int)
    trigger, trace = Trigger(str(row["trigger"] or Trigger.POLL)), row.get("traceparent")
    queue = Queue(str(row.get("queue") or Queue.WOKEN))
    return Claim(str(row["generation_id"]), lease, woken, trigger, None if trace is None else str(trace), queue, shape)


_IS_REQUESTED = "{}.trigger IN ('callback', 'sync', 'backfill')"
_IS_DUE = f"{LEASE_IS_FREE} AND w.due_at <= now()"

# A notification of a delivered row whose address is at the provider again is news, unless a visit is planned already.
_DELIVERED_AT_REST = "(w.delivered_at IS NOT NULL AND (w.due_at IS NULL OR w.finding = 'results_missing'))"


def _ranked_wakes(table: TableShape) -> str:
    """Return the CTEs up to `ranked`: the woken rows that are ours, and whether there is a place for each now."""
    return f"""
WITH wake AS (
    SELECT * FROM unnest(:ids::text[], :leases::uuid[], :triggers::text[])
      WITH ORDINALITY AS u (woken_id, lease, trigger, place)),
at_hand AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY(:ids)
    ORDER BY generation_id FOR UPDATE SKIP LOCKED),
busy AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY(:ids)
    EXCEPT SELECT generation_id FROM at_hand),
ours AS (
    SELECT g.id::text AS woken_id, g.status AS seen_status, {TASK} AS seen_task,
           wake.lease, wake.trigger, wake.place,
           {_IS_REQUESTED.format("wake")} AS requested, {IN_FLIGHT} AS in_flight, {CREATED} AS created_at,
           ({IS_SUCCESS} AND {unstored(table)}) AS unstored
      FROM wake JOIN public.generations g ON g.id = wake.woken_id::{table.id_type}
     WHERE {eligible(table, may_recover("wake.woken_id"))} AND wake.woken_id NOT IN (SELECT generation_id FROM busy)),
ranked AS (
    SELECT ours.*, row_number() OVER (PARTITION BY in_flight OR requested ORDER BY NOT requested, place)
                   <= CASE WHEN in_flight OR requested THEN :limit::int ELSE :ended::int END AS now_taken
      FROM ours LEFT JOIN reconciler.work w ON w.generation_id = ours.woken_id
     WHERE w.generation_id IS NULL OR {_IS_DUE} OR requested OR {CHANGED} (ours.seen_status, ours.seen_task)
        OR (ours.unstored AND {_DELIVERED_AT_REST})),"""


def _woken_sql(table: TableShape, *, traced: bool) -> Statement:
    """Read the generations :ids and their `work`; write leases and triggers; return one row for each :ids that is ours.

    `claimed` is true for a claim, false for a row that another lease holds (its holder was woken) or that only became
    due, null for a row that is being written.
    """
    column, value, update, returned, empty = (
        (", traceparent", f", {_NEW_TRACE}", _SET_TRACE, ", w.traceparent", ", NULL") if traced else [""] * 5
    )
    return Statement(f"""
{_ranked_wakes(table)}
claimed AS (
    INSERT INTO reconciler.work AS w
           (generation_id, due_at, early_at, lease, lease_until, instance, trigger, seen_status, seen_task{column})
    SELECT woken_id,
           CASE WHEN now_taken OR requested OR NOT in_flight THEN now()
                ELSE greatest(now(), created_at + :first_look::interval) END,
           CASE WHEN NOT now_taken AND in_flight THEN now() + interval '{MIN_INTERVAL} seconds' END,
           CASE WHEN now_taken THEN lease END, CASE WHEN now_taken THEN now() + :term::interval END,
           CASE WHEN now_taken THEN :instance::uuid END, trigger, seen_status, seen_task{value}
      FROM ranked ORDER BY woken_id
    ON CONFLICT (generation_id) DO UPDATE
       SET lease = CASE WHEN {LEASE_IS_FREE} THEN excluded.lease ELSE w.lease END,
           lease_until = CASE WHEN {LEASE_IS_FREE} THEN excluded.lease_until ELSE w.lease_until END,
           instance = CASE WHEN {LEASE_IS_FREE} THEN excluded.instance ELSE w.instance END,
           woken = CASE WHEN {LEASE_IS_FREE} THEN w.woken ELSE w.woken + 1 END,
           trigger = excluded.trigger,
           due_at = least(w.due_at, excluded.due_at){update}
     WHERE ({_IS_DUE})
        OR {CHANGED} (excluded.seen_status, excluded.seen_task)
        OR {_IS_REQUESTED.format("excluded")}
        OR ({_DELIVERED_AT_REST} AND EXISTS (SELECT FROM ranked WHERE woken_id = w.generation_id AND unstored))
    RETURNING w.generation_id, w.lease, w.woken, w.trigger, w.lease = ANY(:leases) IS TRUE AS claimed{returned})
SELECT *, {ASYNC_COMMIT} FROM claimed
 UNION ALL SELECT generation_id, NULL, NULL, NULL, NULL{empty}, NULL FROM busy""")
