"""All we know of one generation: its row, bookkeeping, receipts, events, callbacks, and the instance that holds it.

Nothing here writes. `operations/explain.py` puts it into sentences; `reports` calls it.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from reconciler.domain.model import SUCCEEDED
from reconciler.domain.transfer import Transfer
from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import CREATED, TASK, asset_is_result, kind_of, model_of, text_of
from reconciler.postgres.records import build
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable


@dataclass(frozen=True, slots=True)
class ApplicationRow:
    """The application's row.

    `asset_is_result` is whether asset_url is one of its result_urls, or of the addresses that KIE gave for its task.
    """

    id: str
    user_id: str | None
    task_id: str | None
    status: str
    kind: str | None
    model: str | None
    provider: str | None
    error: str | None
    asset_url: str | None
    created_at: datetime
    asset_is_result: bool = False


@dataclass(frozen=True, slots=True)
class AnnouncedResult:
    """One result that KIE announced: its key, the number of its object, and whether KIE has given it."""

    key: str
    n: int
    arrived: bool


@dataclass(frozen=True, slots=True)
class Bookkeeping:
    """The row of `reconciler.work` about `seen_task`; sources come without their queries, which may be signed.

    `results` are in KIE's order; `shown` is how many of them the success shows that we wrote, None before.
    """

    seen_task: str | None
    due_at: datetime | None
    early_at: datetime | None
    write_at: datetime | None
    lease_until: datetime | None
    trigger: str | None
    sources: tuple[str, ...]
    stale: bool
    key_hash: str | None
    family: str | None
    acknowledged_at: datetime | None
    answered_at: datetime | None
    completed_at: datetime | None
    media_deadline: datetime | None
    looked_at: datetime | None
    looks: int
    misses: int
    unknowns: int
    empties: int
    why: str | None
    finding: str | None
    gave_up: bool
    reopened: bool
    refunded_at: datetime | None
    delivered_at: datetime | None
    ordered_at: datetime | None
    task_since: datetime | None
    results: tuple[AnnouncedResult, ...]
    shown: int | None


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The instance that claimed last; the rest is None when it has ended, or is a command, which reports nothing.

    `seen_at` is the time of its last report.
    """

    instance: UUID
    host: str | None
    pid: int | None
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredAsset:
    """One result: an intention until `verified_by` is set."""

    task_id: str
    n: int
    path: str
    mime: str
    size: int
    sha256: str
    version: str | None
    verified_by: str | None
    stored_at: datetime | None


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One transition that we wrote, and when the outbox sent it or gave it up."""

    kind: str
    at: datetime
    announced_at: datetime | None
    dead_at: datetime | None


@dataclass(frozen=True, slots=True)
class ResultCounts:
    """How many results KIE announced, how many are stored, and the keys of those that KIE has not given."""

    announced: int
    stored: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GenerationDetails:
    """All of it at the database's `now`; `work` is None before the first visit, `replicas` counts those alive.

    `transfer` is what the holder has reported at `holder.seen_at`, `asking` for how many seconds KIE had not answered
    it then; both are None where the lease has ended, and where the report names no such step.
    """

    generation: ApplicationRow
    work: Bookkeeping | None
    holder: LeaseHolder | None
    assets: tuple[StoredAsset, ...]
    events: tuple[PastEvent, ...]
    callbacks: tuple[datetime, ...]
    replicas: int
    now: datetime
    transfer: Transfer | None = None
    asking: float | None = None

    @property
    def known(self) -> Bookkeeping | None:
        """The bookkeeping where it is about the row's present task, else None."""
        return self.work if self.work and self.work.seen_task == self.generation.task_id else None

    @property
    def held(self) -> bool:
        """Whether a lease on this generation is running."""
        return self.work is not None and self.work.lease_until is not None and self.work.lease_until > self.now

    @property
    def receipts(self) -> tuple[StoredAsset, ...]:
        """The proven assets of the row's present task."""
        return tuple(asset for asset in self.assets if asset.task_id == self.generation.task_id and asset.verified_by)

    @property
    def results(self) -> ResultCounts | None:
        """The results of the row's present task, None before KIE announced any."""
        known = self.known
        if known is None or not (known.results or known.sources):
            return None
        stored = {receipt.n for receipt in self.receipts}
        missing = tuple(result.key for result in known.results if not result.arrived and result.n not in stored)
        # A daemon that knows only addresses keeps no results.
        return ResultCounts(len(known.results) or len(known.sources), len(stored), missing)

    @property
    def partial(self) -> bool:
        """Whether the row is a success of ours that shows fewer results than KIE announced."""
        known = self.known
        lacking = known is not None and known.shown is not None and known.shown < len(known.results)
        return self.generation.status in SUCCEEDED and lacking


class GenerationDetailsReader:
    """Reads details of generations; `alive` is how long a silent replica counts as alive."""

    def __init__(self, database: Database, table: PresentTable, *, alive: timedelta) -> None:
        self._database = database
        self._alive = alive
        self._details = PerShape(table, _details_sql)

    async def read(self, ids: Sequence[str]) -> tuple[GenerationDetails, ...]:
        """Return the details of those generations that exist, the oldest first."""
        statement = self._details.present(ids=list(ids), alive=self._alive)
        rows = await self._database.fetch(*statement) if ids else []
        found = [row["id"] for row in rows]
        assets = await self._by_id(_ASSETS, found)
        events = await self._by_id(_EVENTS, found)
        callbacks = await self._by_id(_CALLBACKS, found, [row["task_id"] for row in rows])
        return tuple(
            GenerationDetails(
                generation=build(ApplicationRow, row),
                work=_bookkeeping(row) if row["kept"] else None,
                holder=build(LeaseHolder, row) if row["instance"] else None,
                assets=tuple(build(StoredAsset, asset) for asset in assets[row["id"]]),
                events=tuple(build(PastEvent, event) for event in events[row["id"]]),
                callbacks=tuple(callback["at"] for callback in callbacks[row["id"]]),
                replicas=row["replicas"],
                now=row["now"],
                transfer=_transfer(row),
                asking=row["asking"],
            )
            for row in rows
        )

    async def _by_id(self, sql: str, *values: object) -> Mapping[str, list[Mapping[str, Any]]]:
        found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in await self._database.fetch(sql, *values):
            found[row["generation_id"]].append(row)
        return found


# The receipts, events and callbacks of the generations $1; $2 are the tasks of the same generations.
_ASSETS = "SELECT * FROM reconciler.assets WHERE generation_id = ANY($1) ORDER BY generation_id, stored_at, n"
_EVENTS = "SELECT * FROM reconciler.events WHERE generation_id = ANY($1) ORDER BY id"
_CALLBACKS = """
SELECT coalesce(c.generation_id, u.id) AS generation_id, c.at
  FROM unnest($1::text[], $2::text[]) AS u (id, task_id) JOIN reconciler.callbacks c ON c.task_id = u.task_id
 WHERE c.generation_id IS NULL OR c.generation_id = u.id
 ORDER BY c.id
"""


_RESULTS = """(
       SELECT jsonb_agg(jsonb_build_object('key', one.result -> 'key', 'n', one.result -> 'n', 'arrived',
                            jsonb_array_length(one.result -> 'addresses') > 0 OR one.result ->> 'text' IS NOT NULL)
                        ORDER BY one.place)
         FROM jsonb_array_elements(w.results) WITH ORDINALITY AS one (result, place))::text"""


def _reported(what: str) -> str:
    """Return what the holder of `w` has reported about it in this list, NULL without a running lease."""
    path = f"$.{what}[*] ? (@.generation_id == $id)"
    named = f"jsonb_path_query_first(i.doing, '{path}'::jsonpath, jsonb_build_object('id', w.generation_id))"
    return f"CASE WHEN w.lease_until > now() THEN {named} END"


def _transfer(record: Mapping[str, Any]) -> Transfer | None:
    if record["transfer"] is None:
        return None
    # One report gives the rate of the whole stage.
    return Transfer.from_json(json.loads(record["transfer"]), instance=str(record["instance"])).measured((), 0.0)


def _bookkeeping(record: Mapping[str, Any]) -> Bookkeeping:
    plain = tuple(source.partition("?")[0] for source in record["sources"] or ())
    results = tuple(build(AnnouncedResult, one) for one in json.loads(record["results"] or "[]"))
    return build(Bookkeeping, {**record, "sources": plain, "results": results})


def _details_sql(table: TableShape) -> Statement:
    """Read the rows :ids with their bookkeeping and the instance that claimed last; return one row each.

    Of that instance's report only what is about the row. Of the results neither texts nor addresses are read: they are
    long, and addresses may be signed.
    """
    work = ", ".join(f"w.{field.name}" for field in fields(Bookkeeping) if field.name != "results")
    return Statement(f"""
SELECT g.id::text AS id, g.user_id::text AS user_id, {TASK} AS task_id, g.status::text AS status,
       {kind_of(table)} AS kind, {model_of(table)} AS model,
       {text_of(table, "provider")} AS provider, {text_of(table, table.error_column)} AS error,
       g.asset_url::text AS asset_url, {asset_is_result(table)} AS asset_is_result, {CREATED} AS created_at,
       w.generation_id IS NOT NULL AS kept, {work}, {_RESULTS} AS results, w.instance, i.host, i.pid, i.seen_at,
       ({_reported("transfers")})::text AS transfer, ({_reported("asking")} ->> 'seconds')::float8 AS asking,
       (SELECT count(*) FROM reconciler.instances WHERE seen_at > now() - :alive::interval) AS replicas,
       clock_timestamp() AS now
  FROM public.generations g
  LEFT JOIN reconciler.work w ON w.generation_id = g.id::text
  LEFT JOIN reconciler.instances i ON i.id = w.instance
 WHERE g.id = ANY(:ids::text[]::{table.id_type}[])
 ORDER BY g.created_at, g.id""")
