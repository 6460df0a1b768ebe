"""Reads over the whole table: figures, stuck generations, successes that a backfill has to heal. Nothing here writes.

The leader's snapshot, the commands and the HTTP routes call it; one generation is read in `generation_details`. Rows in
flight are found by the partial index, deliveries by our own bookkeeping: while the indexes are there, no statement
reads a table of millions from end to end.
"""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg

from reconciler.domain.absorb import ADDRESS_LIFE
from reconciler.domain.failures.series import SEVERAL, Side
from reconciler.domain.findings.findings import Finding, FindingThresholds, findings, with_published
from reconciler.domain.findings.snapshot import FailingSide, Snapshot
from reconciler.domain.object_keys import PROVIDER_HOSTS, AddressRules, host_listed
from reconciler.postgres.eligibility import addresses
from reconciler.postgres.leader_findings import published_findings
from reconciler.postgres.pool import Database
from reconciler.postgres.records import as_key, build
from reconciler.postgres.reports import report_sql
from reconciler.postgres.reports.generation_details import GenerationDetails, GenerationDetailsReader
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

DAY = timedelta(hours=24)

SPAN = 20_000
"""Rows that one page of a backfill reads: a table of any size is walked in short statements."""


@dataclass(frozen=True, slots=True)
class ReportScope:
    """Which rows are ours, from which age on they are stuck, and how long a silent replica counts as alive.

    `result_hosts` may be fetched from; `address_rules` tell which addresses are the provider's. `announces` is whether
    webhooks are sent. `alive` is two lease terms.
    """

    providers: Sequence[str] = ("kie",)
    task_pattern: str = ".+"
    result_hosts: Sequence[str] = PROVIDER_HOSTS
    address_rules: AddressRules = field(default_factory=lambda: AddressRules(PROVIDER_HOSTS))
    stuck_after: timedelta = timedelta(minutes=10)
    alive: timedelta = timedelta(seconds=60)
    announces: bool = False

    @property
    def owned(self) -> Mapping[str, object]:
        """The parameters of `eligibility.owned`, by name."""
        return {"providers": list(self.providers), "task_pattern": self.task_pattern}


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The last 24 hours by time of creation, and the rows in flight or stuck now; times in seconds.

    `generating` counts the rows of the 24 hours that have not ended; files and bytes were delivered in that time.
    What only a running daemon can know is among `findings` while it leads.
    """

    findings: tuple[Finding, ...]
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
    """One generation in flight for too long, and why its last attempt did not end it; `age` in seconds."""

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
class InFlight:
    """How many of our rows are in flight, and for how many seconds the one that waits longest has waited."""

    rows: int
    oldest: float | None


@dataclass(frozen=True, slots=True)
class StuckPage:
    """One page of the walk over all rows for a backfill; `upto` is where the next page continues, None at the end."""

    found: tuple[str, ...]
    looked: int
    upto: str | None


class Reports:
    """Reads the application's table and our bookkeeping."""

    def __init__(self, database: Database, table: PresentTable, scope: ReportScope | None = None) -> None:
        self._database = database
        self._table = table
        self._scope = scope or ReportScope()
        self._details = GenerationDetailsReader(database, table, alive=self._scope.alive)
        self._sql = PerShape(table, _ReportStatements)

    async def snapshot(self) -> Snapshot:
        """Return the figures of the tables; those that only a process knows (listener, sweeps) keep neutral values."""
        in_flight = await self._rows_in_flight()
        waiting = await self._database.fetch(*self._sql.present.waiting(soon=ADDRESS_LIFE / 2))
        outbox = await self._outbox()
        hooks = await self._database.fetch(*report_sql.HOOKS(id_type=self._table.shape.id_type))
        resting = {row["finding"]: row["rows"] for row in waiting if row["finding"]}
        return Snapshot(
            in_flight={row["status"]: row["rows"] for row in in_flight},
            canary_age=0.0,
            sweep_age=0.0,
            listening=True,
            oldest=max((row["oldest"] for row in in_flight), default=None),
            stuck=sum(row["stuck"] for row in in_flight),
            failing=await self._sides_failing(),
            expiring=sum(row["expiring"] for row in waiting),
            media_deadline=min((row["left"] for row in waiting if row["left"] is not None), default=None),
            waiting=resting,
            unlisted_hosts=await self._unlisted_hosts() if "host_unlisted" in resting else (),
            unannounced=outbox["unannounced"] if self._scope.announces else 0,
            unannounced_age=(outbox["unannounced_age"] or 0.0) if self._scope.announces else 0.0,
            events_dead=outbox["dead"] if self._scope.announces else 0,
            queue_usage=outbox["queue_usage"],
            instances=outbox["instances"],
            polls_per_delivery=outbox["looks"],
            overdue=outbox["overdue"],
            lost=outbox["lost"],
            replicas_lost=tuple(outbox["replicas_lost"] or ()),
            host=socket.gethostname(),
            clock_ahead=(outbox["now"] - datetime.now(UTC)).total_seconds(),
            step_age=outbox["step_age"],
            hooks={row["hook"]: row["waiting"] for row in hooks if row["waiting"]},
        )

    async def findings(self) -> tuple[Finding, ...]:
        """Return the open findings: what the tables show now, and what only the leader knows, as it published it."""
        thresholds = FindingThresholds(stuck_after=self._scope.stuck_after)
        return with_published(findings(await self.snapshot(), thresholds), await published_findings(self._database))

    async def status(self) -> StatusReport:
        """Return the open findings, and the figures of the last 24 hours and of this moment."""
        day = await self._database.row(*self._sql.present.last_day(within=DAY, **self._scope.owned))
        times = await self._database.row(*self._sql.present.delivered(within=DAY, **self._scope.owned))
        stored = await self._database.row(*report_sql.STORED(within=DAY))
        in_flight = await self._rows_in_flight()
        outbox = await self._outbox()
        assert day is not None
        assert times is not None
        assert stored is not None
        total, success = day["total"], day["success"]
        return StatusReport(
            findings=await self.findings(),
            total=total,
            success=success,
            failed=day["failed"],
            generating=day["generating"],
            success_percent=round(100 * success / total, 1) if total else None,
            delivered=times["delivered"],
            mean_seconds=_to_tenths(times["mean"]),
            p95_seconds=_to_tenths(times["p95"]),
            stored_files=stored["files"],
            stored_bytes=int(stored["bytes"]),
            in_flight=sum(row["rows"] for row in in_flight),
            stuck=sum(row["stuck"] for row in in_flight),
            replicas=outbox["instances"],
        )

    async def stuck(self) -> tuple[StuckGeneration, ...]:
        """Return the generations in flight for too long, the oldest first."""
        statement = self._sql.present.stuck(stuck_after=self._scope.stuck_after, **self._scope.owned)
        return tuple(build(StuckGeneration, row) for row in await self._database.fetch(*statement))

    async def in_flight(self) -> InFlight:
        """Return how many generations are in flight, and the longest wait of them."""
        rows = await self._rows_in_flight()
        return InFlight(sum(row["rows"] for row in rows), max((row["oldest"] for row in rows), default=None))

    async def details(self, generation_id: str) -> GenerationDetails | None:
        """Return the details of one generation, None when there is no such row."""
        key = as_key(generation_id, self._table.shape.id_type)
        found = await self._details.read([key]) if key is not None else ()
        return found[0] if found else None

    async def details_of(self, ids: Sequence[str]) -> tuple[GenerationDetails, ...]:
        """Return the details of those of these generations that exist, the oldest first."""
        return await self._details.read(ids)

    async def explain(self, name: str) -> tuple[GenerationDetails, ...]:
        """Return the details of a generation, or of every generation of a task; empty where neither exists."""
        found = await self.details(name)
        return (found,) if found else await self._details.read(await self.find_task(name))

    async def find_task(self, task_id: str) -> tuple[str, ...]:
        """Return the ids of all generations of this task.

        Of a large table without an index on task_id only those that we know or that are in flight; the whole table is
        searched where there are none.
        """
        if not task_id.isprintable():
            return ()
        if not await self._database.value(report_sql.SEARCHABLE):
            known = await self._database.fetch(*self._sql.present.known(task_id=task_id))
            if known:
                return tuple(row["id"] for row in known)
        return tuple(row["id"] for row in await self._database.fetch(*report_sql.EVERYWHERE(task_id=task_id)))

    async def unhealed(self, limit: int = SPAN, after: str | None = None) -> StuckPage:
        """Read the next `limit` rows by id and return those that say success without an asset of ours."""
        rules = self._scope.address_rules
        values = {"limit": limit, **addresses(rules), **self._scope.owned}
        sql = self._sql.present
        statement = sql.unhealed_first(**values) if after is None else sql.unhealed(after=after, **values)
        *found, end = await self._database.fetch(*statement)
        return StuckPage(
            found=tuple(
                row["id"]
                for row in found
                if not row["asset_url"]
                or rules.at_provider(row["id"], row["asset_url"], is_result=row["asset_is_result"])
            ),
            looked=end["looked"],
            upto=end["id"] if end["looked"] == limit else None,
        )

    async def _rows_in_flight(self) -> Sequence[asyncpg.Record]:
        statement = self._sql.present.in_flight(stuck_after=self._scope.stuck_after, **self._scope.owned)
        return await self._database.fetch(*statement)

    async def _outbox(self) -> asyncpg.Record:
        row = await self._database.row(*report_sql.OUTBOX(alive=self._scope.alive, term=self._scope.alive / 2))
        assert row is not None
        return row

    async def _sides_failing(self) -> Mapping[Side, FailingSide]:
        failing = {
            row["side"]: FailingSide(row["rows"], row["seconds"], row["reason"])
            for row in await self._database.fetch(*self._sql.present.failing(least=SEVERAL))
        }
        if "source" in failing:
            sources = await self._database.fetch(*report_sql.SOURCES_FAILING(least=SEVERAL))
            failing["source"] = replace(failing["source"], hosts=_hosts(row["source"] for row in sources))
        return failing

    async def _unlisted_hosts(self) -> tuple[str, ...]:
        sources = [row["source"] for row in await self._database.fetch(report_sql.UNLISTED)]
        return _hosts(source for source in sources if not host_listed(source, self._scope.result_hosts))


def _hosts(sources: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({host for source in sources if (host := _host(source))}))


def _host(source: str) -> str | None:
    try:
        return urlsplit(source).hostname
    except ValueError:
        return None


class _ReportStatements:
    """The statements of the reports for one shape of the application's table."""

    def __init__(self, table: TableShape) -> None:
        self.in_flight = report_sql.in_flight(table)
        self.waiting = report_sql.waiting(table)
        self.failing = report_sql.failing(table)
        self.last_day = report_sql.last_day(table)
        self.delivered = report_sql.delivered(table)
        self.stuck = Statement(report_sql.stuck(table))
        self.known = report_sql.known(table)
        self.unhealed_first = report_sql.unhealed(table, first=True)
        self.unhealed = report_sql.unhealed(table, first=False)


def _to_tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
