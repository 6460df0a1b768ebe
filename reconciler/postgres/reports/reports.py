"""Every question about the whole table: figures, what is stuck, what a backfill has to heal. Nothing here writes.

One generation's story is read in `cases.py`. The leader's snapshot, the commands and the doors ask here. Rows in flight
are found by the partial discovery index, deliveries by our own bookkeeping, so that no question reads a table of
millions from end to end as long as the indexes are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from reconciler.domain.absorb import ADDRESS_LIFE
from reconciler.domain.findings import Snapshot
from reconciler.domain.object_keys import PROVIDER_HOSTS, host_listed, points_at_provider
from reconciler.postgres.pool import Database
from reconciler.postgres.reports import report_sql
from reconciler.postgres.reports.generation_details import GenerationDetails, GenerationDetailsReader, as_key, built
from reconciler.postgres.schema import TableShape

DAY = timedelta(hours=24)

SPAN = 20_000
"""Rows that one page of a backfill looks at: a table of any size is walked in short statements."""


@dataclass(frozen=True, slots=True)
class ReportScope:
    """Which rows count as ours, from which age on they are stuck, and how long a silent replica counts as alive.

    `result_hosts` are those that may be fetched from, `their_hosts` those whose addresses are the provider's.
    """

    providers: Sequence[str] = ("kie",)
    task_pattern: str = ".+"
    result_hosts: Sequence[str] = PROVIDER_HOSTS
    their_hosts: Sequence[str] = PROVIDER_HOSTS
    stuck_after: timedelta = timedelta(minutes=10)
    alive: timedelta = timedelta(seconds=60)
    announces: bool = False


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The last 24 hours by time of creation, and what is in flight or stuck now; times in seconds.

    `generating` are those of the 24 hours that have not ended; files and bytes are those delivered in that time.
    """

    total: int
    success: int
    failed: int
    generating: int
    success_percent: float | None
    delivered: int
    mean_seconds: float | None
    p95_seconds: float | None
    stored_files: int
    stored_bytes: int
    in_flight: int
    stuck: int
    replicas: int


@dataclass(frozen=True, slots=True)
class StuckGeneration:
    """One generation in flight for too long, and why its last attempt did not end; `age` in seconds."""

    id: str
    task_id: str | None
    kind: str | None
    model: str | None
    status: str
    created_at: datetime
    age: float
    why: str
    finding: str | None
    looks: int
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class StuckPage:
    """What one page of the walk over all rows found; `upto` is where to go on, None at the end."""

    found: tuple[str, ...]
    looked: int
    upto: str | None


class Reports:
    """Read-only questions about the application's table and our bookkeeping."""

    def __init__(self, database: Database, shape: TableShape, scope: ReportScope | None = None) -> None:
        self._database = database
        self._shape = shape
        self._scope = scope or ReportScope()
        self._cases = GenerationDetailsReader(database, shape, alive=self._scope.alive)

    async def snapshot(self) -> Snapshot:
        """Return what the tables tell; what only a process knows (its listener, its sweeps) stays at rest values."""
        open_rows = await self._ours(report_sql.in_flight(self._shape), self._scope.stuck_after)
        waiting = await self._database.fetch(report_sql.waiting(self._shape), ADDRESS_LIFE / 2)
        outbox = await self._database.row(report_sql.OUTBOX, self._scope.alive)
        assert outbox is not None
        findings = {row["finding"]: row["rows"] for row in waiting if row["finding"]}
        return Snapshot(
            in_flight={row["status"]: row["rows"] for row in open_rows},
            canary_age=0.0,
            sweep_age=0.0,
            listening=True,
            oldest=max((row["oldest"] for row in open_rows), default=None),
            stuck=sum(row["stuck"] for row in open_rows),
            unreachable=sum(row["unheard"] for row in waiting),
            expiring=sum(row["expiring"] for row in waiting),
            media_deadline=min((row["left"] for row in waiting if row["left"] is not None), default=None),
            waiting=findings,
            unlisted_hosts=await self._unlisted() if "host_unlisted" in findings else (),
            unannounced=outbox["unannounced"] if self._scope.announces else 0,
            unannounced_age=(outbox["unannounced_age"] or 0.0) if self._scope.announces else 0.0,
            events_dead=outbox["dead"] if self._scope.announces else 0,
            queue_usage=outbox["queue_usage"],
            instances=outbox["instances"],
            polls_per_delivery=outbox["looks"],
            overdue=outbox["overdue"],
            lost=outbox["lost"],
        )

    async def status(self) -> StatusReport:
        """Return the figures of the last 24 hours and of this moment."""
        day = await self._ours(report_sql.last_day(self._shape), DAY)
        times = await self._ours(report_sql.delivered(self._shape), DAY)
        stored = await self._database.row(report_sql.STORED, DAY)
        open_rows = await self._ours(report_sql.in_flight(self._shape), self._scope.stuck_after)
        outbox = await self._database.row(report_sql.OUTBOX, self._scope.alive)
        assert stored is not None
        assert outbox is not None
        total, success = day[0]["total"], day[0]["success"]
        return StatusReport(
            total=total,
            success=success,
            failed=day[0]["failed"],
            generating=day[0]["generating"],
            success_percent=round(100 * success / total, 1) if total else None,
            delivered=times[0]["delivered"],
            mean_seconds=_tenth(times[0]["mean"]),
            p95_seconds=_tenth(times[0]["p95"]),
            stored_files=stored["files"],
            stored_bytes=int(stored["bytes"]),
            in_flight=sum(row["rows"] for row in open_rows),
            stuck=sum(row["stuck"] for row in open_rows),
            replicas=outbox["instances"],
        )

    async def stuck(self) -> tuple[StuckGeneration, ...]:
        """Return the generations in flight for too long, the oldest first."""
        rows = await self._ours(report_sql.stuck(self._shape), self._scope.stuck_after)
        return tuple(built(StuckGeneration, row) for row in rows)

    async def case(self, generation_id: str) -> GenerationDetails | None:
        """Return all that is known about one generation, None when there is no such row."""
        key = as_key(generation_id, self._shape.id_type)
        cases = await self._cases.read([key]) if key is not None else ()
        return cases[0] if cases else None

    async def cases(self, ids: Sequence[str]) -> tuple[GenerationDetails, ...]:
        """Return all that is known about those of these generations that exist, the oldest first."""
        return await self._cases.read(ids)

    async def explain(self, name: str) -> tuple[GenerationDetails, ...]:
        """Return all that is known about a generation, or about every generation of a task; empty: nobody knows it."""
        case = await self.case(name)
        return (case,) if case else await self._cases.read(await self.find_task(name))

    async def find_task(self, task_id: str) -> tuple[str, ...]:
        """Return the ids of all generations of this task.

        Of a large table without an index on task_id those that we know or that are in flight, all only where there are
        none.
        """
        if not task_id.isprintable():
            return ()
        if not await self._database.value(report_sql.SEARCHABLE):
            known = await self._database.fetch(report_sql.known(self._shape), task_id)
            if known:
                return tuple(row["id"] for row in known)
        return tuple(row["id"] for row in await self._database.fetch(report_sql.EVERYWHERE, task_id))

    async def unhealed(self, limit: int = SPAN, after: str | None = None) -> StuckPage:
        """Look at the next `limit` rows by id and return those that say success without an asset of ours."""
        hosts = [suffix for suffix in self._scope.their_hosts if suffix != "*"] or list(PROVIDER_HOSTS)
        start = () if after is None else (after,)
        sql = report_sql.unhealed(self._shape, first=after is None)
        rows = await self._ours(sql, limit, [f"%{suffix}%" for suffix in hosts], *start)
        end, found = rows[-1], rows[:-1]
        return StuckPage(
            found=tuple(
                row["id"] for row in found if not row["asset_url"] or points_at_provider(row["asset_url"], hosts)
            ),
            looked=end["looked"],
            upto=end["id"] if end["looked"] == limit else None,
        )

    async def _ours(self, sql: str, *more: object) -> list[Mapping[str, Any]]:
        return await self._database.fetch(sql, list(self._scope.providers), self._scope.task_pattern, *more)

    async def _unlisted(self) -> tuple[str, ...]:
        rows = await self._database.fetch(report_sql.UNLISTED)
        found = {urlsplit(row["source"]).hostname for row in rows if not self._listed(row["source"])}
        return tuple(sorted(host for host in found if host))

    def _listed(self, source: str) -> bool:
        return host_listed(source, self._scope.result_hosts)


def _tenth(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
