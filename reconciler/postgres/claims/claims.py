"""Which instance may write which generation, and until when: discovery, claims, renewals.

A claim draws a fresh lease; every later write names it (`ledger`). Times are the database's. The worker claims,
renews and releases; the scheduler discovers.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import cycle

from reconciler.domain.model import Trigger
from reconciler.postgres.claims.unacknowledged_claims import UnacknowledgedClaims
from reconciler.postgres.eligibility import EligibleRows, eligible
from reconciler.postgres.pool import ASYNC_COMMIT, Database
from reconciler.postgres.predicates import IN_FLIGHT, LEASE_IS_FREE, NEVER_HAD_TASK, OPEN_OR_UNHEALED, may_recover
from reconciler.postgres.records import as_key
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement

_CHANGED = "(w.seen_status, w.seen_task) IS DISTINCT FROM"

# Drawn once for a generation, by the replica that claims it first: every visit's span names it as its parent.
_NEW_TRACE = """'00-' || replace(gen_random_uuid()::text, '-', '') || '-'
           || left(replace(gen_random_uuid()::text, '-', ''), 16) || '-01'"""
_SET_TRACE = f", traceparent = coalesce(w.traceparent, {_NEW_TRACE})"

_SINCE = "w.due_at >= coalesce(:floor::timestamptz, '-infinity')"
_OLDEST = (f"w.due_at <= now() AND {_SINCE}", "w.due_at")
# By their places in the table: the planner would take 500 names for a reason to read all of it.
_NEWEST = (
    f"""w.ctid = ANY (ARRAY(
             SELECT newest.ctid FROM (SELECT w.ctid, w.misses, w.due_at FROM reconciler.work w
                                       WHERE w.due_at <= now() AND {_SINCE} AND {LEASE_IS_FREE}
                                       ORDER BY w.due_at DESC LIMIT 500) newest
              ORDER BY newest.misses > 0, newest.due_at DESC LIMIT 4 * :limit))
      AND w.due_at <= now() AND {LEASE_IS_FREE}""",
    "w.misses > 0, w.due_at DESC",
)
_SOONEST = (f"{_SINCE} AND w.early_at <= now()", "w.due_at")


def _claim_sql(condition: str, order: str, *, traced: bool) -> Statement:
    """Read the first :limit free rows of `work` in this order; write the lease of :instance; return their claims."""
    return Statement(f"""
WITH picked AS (
    SELECT w.generation_id FROM reconciler.work w WHERE {condition} AND {LEASE_IS_FREE}
    ORDER BY {order} LIMIT :limit FOR UPDATE SKIP LOCKED)
UPDATE reconciler.work w
   SET lease = gen_random_uuid(), lease_until = now() + :term::interval,
       instance = :instance{_SET_TRACE if traced else ""}
  FROM picked WHERE w.generation_id = picked.generation_id
RETURNING w.generation_id, w.lease, w.woken, w.trigger{", w.traceparent" if traced else ""}, {ASYNC_COMMIT}""")


# Reads the first due time. Returns a time before which nothing is due, except for rows that a slow writer is about to
# commit; the next sweep finds those. Without it, a claim would pass every former due time in the index for as long as
# an old snapshot keeps dead rows.
_FLOOR = Statement("SELECT least(min(due_at), now()) - interval '2 minutes' FROM reconciler.work")

# Reads due times and leases. Returns the seconds until a row becomes due, or until the lease of a due row ends: its
# holder may be dead.
_NEXT = Statement(f"""
SELECT extract(epoch FROM least(
    (SELECT w.due_at FROM reconciler.work w WHERE w.due_at > now() ORDER BY w.due_at LIMIT 1),
    (SELECT min(w.lease_until) FROM reconciler.work w
      WHERE w.due_at <= now() AND {_SINCE} AND w.lease_until > now())
) - clock_timestamp())::float8""")

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

# Ends these leases and makes their rows due again in :seconds; passes over a row that is being written.
_RELEASE = Statement(f"""{_OURS}
UPDATE reconciler.work w
   SET lease = NULL, lease_until = NULL, early_at = NULL,
       due_at = clock_timestamp() + :seconds::float8 * interval '1 second'
  FROM ours WHERE w.generation_id = ours.generation_id""")


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one generation until the lease ends.

    `woken` shows later whether the row was woken meanwhile; `traceparent` names its trace, None without tracing.
    """

    generation_id: str
    lease: uuid.UUID
    woken: int
    trigger: Trigger
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class WakeResult:
    """What came of some wakes: the claims, and the ids to wake again because their rows are being written."""

    claims: list[Claim]
    busy: tuple[str, ...]


class Claims:
    """The claims of one instance; `term` is a lease's length in seconds, `traced` turns traces on."""

    def __init__(
        self,
        database: Database,
        table: TableShape,
        eligible_rows: EligibleRows,
        *,
        instance: uuid.UUID,
        term: float,
        traced: bool = False,
    ) -> None:
        self._database = database
        self._instance = instance
        self._term = timedelta(seconds=term)
        self._eligible = eligible_rows.parameters
        self._id_type = table.id_type
        # They take turns. Where more is due than can be polled, a backlog of hopeless rows must not stand before a row
        # that has just become due, nor the other way round.
        self._due = tuple(_claim_sql(*which, traced=traced) for which in (_OLDEST, _NEWEST))
        self._early = _claim_sql(*_SOONEST, traced=traced)
        self._turns = cycle(range(len(self._due)))
        self._woken = _woken_sql(table, traced=traced)
        self._discover = _discover_sql(table)
        self._floor: datetime | None = None
        self.unacknowledged = UnacknowledgedClaims(database, instance, term)

    async def woken(self, wakes: Mapping[str, Trigger]) -> list[Claim]:
        """Claim the woken generations that are ours, free, and due or changed; wake the holders of the others."""
        return (await self.take(wakes)).claims

    async def take(self, wakes: Mapping[str, Trigger]) -> WakeResult:
        """Do what `woken` does, and return also which wakes have to be repeated."""
        # Anybody may NOTIFY: a name that no row can have must not break the statement for the others.
        keys = {as_key(name, self._id_type): trigger.value for name, trigger in wakes.items()}
        keys.pop(None, None)
        rows = await self.unacknowledged.claimed(
            self._woken,
            term=self._term,
            instance=self._instance,
            ids=list(keys),
            leases=[uuid.uuid4() for _ in keys],
            triggers=list(keys.values()),
            **self._eligible,
        )
        return WakeResult(
            [_claim(row) for row in rows if row["claimed"]],
            tuple(row["generation_id"] for row in rows if row["claimed"] is None),
        )

    async def due(self, limit: int) -> list[Claim]:
        """Claim up to `limit` generations that are due: the longest overdue, every second time the newest.

        Among the newest, those without a failure come first.
        """
        return await self._pick(self._due[next(self._turns)], limit)

    async def early(self, limit: int) -> list[Claim]:
        """Claim up to `limit` generations before they are due, to use a request that would else be wasted."""
        return await self._pick(self._early, limit)

    async def _pick(self, statement: Statement, limit: int) -> list[Claim]:
        rows = await self.unacknowledged.claimed(
            statement, term=self._term, instance=self._instance, limit=limit, floor=self._floor
        )
        return [_claim(row) for row in rows]

    async def next_due(self) -> float | None:
        """Return the seconds until a generation is due or the lease of a due one ends, None when none is waiting."""
        seconds: float | None = await self._database.value(*_NEXT(floor=self._floor))
        return seconds

    async def renew(self, held: Sequence[Claim]) -> set[uuid.UUID]:
        """Prolong these leases by a term and return those that were; the others are lost, or being written under."""
        rows = await self._database.fetch(*_RENEW(term=self._term, **_leases(held)))
        return {row["lease"] for row in rows}

    async def lost(self, held: Sequence[Claim]) -> set[uuid.UUID]:
        """Return the leases among these that are not ours any more."""
        rows = await self._database.fetch(*_STILL_OURS(**_leases(held)))
        return {claim.lease for claim in held} - {row["lease"] for row in rows}

    async def release(self, held: Sequence[Claim], *, seconds: float = 5.0) -> None:
        """Give these generations back, due again in so many seconds."""
        await self._database.execute(*_RELEASE(seconds=seconds, **_leases(held)))

    async def discover(self) -> int:
        """Make due what no notification announced, and return how many rows that were.

        These are open rows without bookkeeping, changed rows, rows that a callback offers a task, and delivered rows
        that lost their address.
        """
        self._floor = await self._database.value(*_FLOOR())
        return len(await self._database.fetch(*self._discover(term=self._term, **self._eligible)))


def _leases(held: Sequence[Claim]) -> Mapping[str, object]:
    return {"ids": [claim.generation_id for claim in held], "leases": [claim.lease for claim in held]}


def _claim(row: Mapping[str, object]) -> Claim:
    lease, woken = row["lease"], row["woken"]
    assert isinstance(lease, uuid.UUID)
    assert isinstance(woken, int)
    trigger, trace = Trigger(str(row["trigger"] or Trigger.POLL)), row.get("traceparent")
    return Claim(str(row["generation_id"]), lease, woken, trigger, None if trace is None else str(trace))


def _woken_sql(table: TableShape, *, traced: bool) -> Statement:
    """Read the generations :ids and their `work`; write leases and triggers; return one row for each :ids that is ours.

    `claimed` is true for a claim, false for a row that another lease holds (its holder was woken), null for a row that
    is being written.
    """
    column, value, update, returned, empty = (
        (", traceparent", f", {_NEW_TRACE}", _SET_TRACE, ", w.traceparent", ", NULL") if traced else [""] * 5
    )
    return Statement(f"""
WITH wake AS (SELECT * FROM unnest(:ids::text[], :leases::uuid[], :triggers::text[]) AS u (woken_id, lease, trigger)),
at_hand AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY(:ids)
    ORDER BY generation_id FOR UPDATE SKIP LOCKED),
busy AS (
    SELECT generation_id FROM reconciler.work WHERE generation_id = ANY(:ids)
    EXCEPT SELECT generation_id FROM at_hand),
ours AS (
    SELECT g.id::text AS woken_id, g.status AS seen_status, g.task_id AS seen_task, wake.lease, wake.trigger
      FROM wake JOIN public.generations g ON g.id = wake.woken_id::{table.id_type}
     WHERE {eligible(table, may_recover("wake.woken_id"))} AND wake.woken_id NOT IN (SELECT generation_id FROM busy)),
claimed AS (
    INSERT INTO reconciler.work AS w
           (generation_id, due_at, lease, lease_until, instance, trigger, seen_status, seen_task{column})
    SELECT woken_id, now(), lease, now() + :term::interval, :instance, trigger, seen_status, seen_task{value}
      FROM ours ORDER BY woken_id
    ON CONFLICT (generation_id) DO UPDATE
       SET lease = CASE WHEN {LEASE_IS_FREE} THEN excluded.lease ELSE w.lease END,
           lease_until = CASE WHEN {LEASE_IS_FREE} THEN excluded.lease_until ELSE w.lease_until END,
           instance = CASE WHEN {LEASE_IS_FREE} THEN excluded.instance ELSE w.instance END,
           woken = CASE WHEN {LEASE_IS_FREE} THEN w.woken ELSE w.woken + 1 END,
           trigger = excluded.trigger,
           due_at = now(){update}
     WHERE ({LEASE_IS_FREE} AND w.due_at <= now())
        OR {_CHANGED} (excluded.seen_status, excluded.seen_task)
        OR excluded.trigger IN ('callback', 'sync', 'backfill')
    RETURNING w.generation_id, w.lease, w.woken, w.trigger, w.lease = ANY(:leases) AS claimed{returned})
SELECT *, {ASYNC_COMMIT} FROM claimed
 UNION ALL SELECT generation_id, NULL, NULL, NULL, NULL{empty}, NULL FROM busy""")


# A callback may come while every visit fails: a task that it offers to a row without one does not wait for the row's
# due time.
_OFFERED = f"""(g.task_id IS NULL AND w.due_at > now() AND EXISTS (
           SELECT FROM reconciler.callbacks c WHERE c.generation_id = w.generation_id AND {NEVER_HAD_TASK}
              AND c.at > greatest(w.looked_at, now() - interval '14 days')))"""

# Delivered, and the application has taken the address away since, which changes neither status nor task. `why` is set
# where a visit left the row, or where results are missing: then the next visit is hours away.
_LOST_ADDRESS = """(w.delivered_at IS NOT NULL
           AND (w.due_at IS NULL AND w.why IS NULL OR w.due_at > now() AND w.finding = 'results_missing'))"""


def _discover_sql(table: TableShape) -> Statement:
    """Read the eligible rows of the partial index and their `work`; make them due where free; return their ids."""
    return Statement(f"""
WITH found AS (
    SELECT g.id::text AS found_id, g.status, g.task_id, w.generation_id IS NOT NULL AS known
      FROM public.generations g LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
     WHERE {OPEN_OR_UNHEALED}
       AND {eligible(table)}
       AND ({IN_FLIGHT} OR g.created_at > now() - interval '14 days')
       AND (w.generation_id IS NULL OR {_CHANGED} (g.status, g.task_id) OR {_OFFERED} OR {_LOST_ADDRESS})),
at_hand AS MATERIALIZED (
    SELECT generation_id FROM reconciler.work WHERE generation_id IN (SELECT found_id FROM found WHERE known)
    ORDER BY generation_id FOR UPDATE SKIP LOCKED)
INSERT INTO reconciler.work AS w (generation_id, due_at, trigger, seen_status, seen_task)
SELECT found_id, now(), 'sweep', status, task_id FROM found
 WHERE NOT known OR found_id IN (SELECT generation_id FROM at_hand)
 ORDER BY found_id
ON CONFLICT (generation_id) DO UPDATE SET due_at = now(), trigger = 'sweep' WHERE {LEASE_IS_FREE}
RETURNING w.generation_id""")
