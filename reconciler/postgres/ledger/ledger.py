"""Every write about a claimed generation, each fenced by its lease; the SQL is in `ledger_sql` and `outcome_sql`.

A fenced write begins by locking our own `work` row with the lease in its predicate: token and row lock together are the
fence. A predicate in the UPDATE of the application's table alone would leak, because that statement may wait for a lock
while the lease runs out. Lock order: work, generations, hook. A write that finds the fence gone raises LeaseLost. The
visit and the delivery call it. A visit keeps to the shape of the application's table that its claim names.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg

from reconciler.domain import locked_write
from reconciler.domain.failures import series
from reconciler.domain.model import OPEN, SUCCEEDED, Asset, Fail, Reschedule, Result, Row
from reconciler.domain.results import from_addresses, from_json, to_json
from reconciler.errors import LeaseLost, Permanent, TableChanged
from reconciler.postgres.claims.claims import Claim
from reconciler.postgres.clock import DatabaseClock, mark_of
from reconciler.postgres.errors import lock_refusals, row_refusals
from reconciler.postgres.ledger import ledger_sql, outcome_sql
from reconciler.postgres.pool import Database, lock_setting
from reconciler.postgres.records import build
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.postgres.table_reader import PerShape, PresentTable

SECOND_LOOK = timedelta(seconds=60)

LOCK_SECONDS = 0.1
"""How long a write waits for locks that the application holds, before its row rests."""

FAILING_AT_ONCE = 2
"""Failures that are written at once: a hook that is slow or waits must leave connections to the deliveries."""

TABLE = "the write of public.generations"
HOOK = "reconciler.on_failed"

# Errors that waiting, a grant or a migration mends have been translated before they come here.
_refusals = partial(
    row_refusals,
    hint="mend the trigger, constraint or column of public.generations that refuses it; the row waits until then",
)


@dataclass(frozen=True, slots=True)
class ClaimedRow:
    """A row as it was read under its lease, and the database's time of the read."""

    row: Row
    now: datetime


@dataclass(frozen=True, slots=True)
class StoredResults:
    """What a success writes into the application's row: our addresses and paths, in KIE's order.

    `receipt` is the asset whose receipt is still to be written. `recheck_at` is when to ask for missing results.
    `main` is the place, from 0, of the address that asset_url shows. `former_preview` is the preview_url that this
    address replaces, None where that stays.
    """

    addresses: Sequence[str]
    paths: Sequence[str]
    receipt: Asset | None = None
    recheck_at: datetime | None = None
    main: int = 0
    former_preview: str | None = None


class Ledger:
    """Reads and writes claimed rows; with `handover` a failure is only announced, never written.

    What writes the application's table goes through `application` (None: `database`) and waits `lock_wait` seconds for
    locks that the application holds; then it raises Locked, and nothing was written. `clock` is told the time of every
    read.

    `second_look` is the time from a delivery to the comparison of its objects with their receipts. It is two leases: a
    visit that lost its lease has made its last write by then.
    """

    def __init__(
        self,
        database: Database,
        table: PresentTable,
        *,
        application: Database | None = None,
        lock_wait: float = LOCK_SECONDS,
        handover: bool = False,
        second_look: timedelta = SECOND_LOOK,
        clock: DatabaseClock | None = None,
    ) -> None:
        self.clock = clock or DatabaseClock()
        self._database = database
        self._application = application or database
        self._lock_wait = lock_setting(lock_wait)
        self._failing = asyncio.Semaphore(FAILING_AT_ONCE)
        self._table = table
        self._handover = handover
        self._second_look = second_look
        self._sql = PerShape(table, partial(_LedgerSql, handover=handover))

    async def read(self, ids: Sequence[str]) -> dict[str, ClaimedRow]:
        """Read generations with their bookkeeping; those that are gone from the application's table are missing."""
        asked_at = self.clock.uptime
        records = await self._database.fetch(*self._sql.present.read(ids=list(ids)))
        if records:
            self.clock.observe(records[0]["now"], asked_at=asked_at, mark=mark_of(records[0]))
        return {record["id"]: ClaimedRow(_row(record), record["now"]) for record in records}

    async def note(self, row: Row, claim: Claim) -> None:
        """Keep the facts of a row before the effects that build on them."""
        await self._write(ledger_sql.NOTE, claim, **_facts(row))

    async def rest(self, row: Row, claim: Claim, rest: Reschedule, decided_at: datetime | None = None) -> None:
        """Keep the facts, give the lease back, look again at the given time; write `generating` where it begins.

        With `decided_at`, the database's time of the decision, the given times are waits from then on, so that a clock
        that was set meanwhile changes none of them.
        Raises Permanent (code "row_refused") where the application's table refuses `generating`.
        """
        sql = self._sql_of(claim)
        generating = rest.set_generating and sql.table.writes_generating
        facts = _facts(replace(row, reason=rest.reason, finding=rest.finding))
        statement = sql.rest_generating if generating else sql.rest
        write = None if rest.locked_write is None else json.dumps(locked_write.to_json(rest.locked_write))
        times = {"until": rest.due_at, "early": rest.earliest, "write_at": rest.write_at, "decided_at": decided_at}
        values = {"woken": claim.woken, "locked_write": write, **times, **facts}
        if not generating:
            await self._write(statement, claim, **values)
        elif await self._write_row(statement(**_fence(claim), lock_wait=self._lock_wait, **values)) is None:
            raise LeaseLost

    async def leave(self, row: Row, claim: Claim, why: str) -> None:
        """Keep the facts and look at this row no more until it changes."""
        await self._write(ledger_sql.LEAVE, claim, **_facts(replace(row, reason=why)))

    async def forget(self, claim: Claim) -> None:
        """Drop the bookkeeping of a row that the application deleted; its stored objects become orphans."""
        await self._database.execute(*ledger_sql.FORGET(**_fence(claim)))

    async def adopt(self, row: Row, claim: Claim, task_id: str) -> bool:
        """Write the task's id into a row in flight that has none, with the facts about the task.

        False when the application changed the row, for example because createTask's own answer came: then nothing was
        written. Raises Permanent when the application's table refuses the id (code "no_task"), or its trigger does
        ("row_refused").
        """
        facts = _facts(replace(row, task_id=task_id))
        with _refusals():
            try:
                statement = self._sql_of(claim).adopt(**_fence(claim), lock_wait=self._lock_wait, **facts)
                record = await self._application.write(*statement, writes=TABLE)
            except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError) as error:
                hint = "another row has this task, or the column task_id is too narrow"
                raise Permanent(f"the table refuses the task id: {error}", code="no_task", hint=hint) from error
        return _outcome(record, "adopted") is not None

    async def intend(self, row: Row, claim: Claim, asset: Asset) -> None:
        """Keep the facts and where this asset's bytes will go, before any byte is sent."""
        target = {name: getattr(asset, name) for name in ("n", "path", "mime", "size", "sha256", "md5")}
        await self._write(ledger_sql.INTEND, claim, **_facts(row), **target)

    async def save_upload_name(self, row: Row, claim: Claim, n: int, upload: str) -> None:
        """Keep a resumable upload's name, so that the next visit can continue it."""
        await self._write(ledger_sql.UPLOAD_NAME, claim, task_id=row.task_id, n=n, upload=upload)

    async def stored(self, row: Row, claim: Claim, asset: Asset) -> None:
        """Keep the receipt of one asset."""
        await self._write(ledger_sql.STORED, claim, task_id=row.task_id, **_receipt(asset))

    async def finish(self, row: Row, claim: Claim, results: StoredResults) -> str | None:
        """Write success with every address, its event and its timing in one statement.

        Returns the event's kind (succeeded, healed, recovered), or None when the application changed the row: then
        nothing was written and the lease is still ours. Raises Permanent (code "row_refused") when the
        application's table refuses the success: then nothing was written either.
        """
        kind = "succeeded" if row.status in OPEN else "healed" if row.status in SUCCEEDED else "recovered"
        sql = self._sql_of(claim)
        statement = sql.finish(
            model_took=row.duration.total_seconds() if row.duration else None,
            model=row.model or "",
            kind=kind,
            main=results.main + 1,
            **(_document(row) if sql.table.has("result_json") else {}),
            **_preview(results, sql.table),
            **self._delivery(row, claim, results, sql.table.success),
        )
        return _outcome(await self._write_row(statement), kind)

    async def repair(self, row: Row, claim: Claim, results: StoredResults) -> str | None:
        """Write that a broken delivery is complete again; the application's row only where an address changes.

        Returns the event's kind (repaired), or None when the application changed the row. Raises Permanent
        (code "row_refused") when the application's table refuses the address.
        """
        sql = self._sql_of(claim)
        delivery = {**self._delivery(row, claim, results, row.status), **_preview(results, sql.table)}
        return _outcome(await self._write_row(sql.repair(main=results.main + 1, **delivery)), "repaired")

    async def extend(self, row: Row, claim: Claim, results: StoredResults) -> str | None:
        """Write that results which came late are stored too; asset_url and the status stay.

        Returns the event's kind (extended), or None when the application changed the row. Raises Permanent
        (code "row_refused") when the application's table refuses the addresses.
        """
        delivery = self._delivery(row, claim, results, row.status)
        return _outcome(await self._write_row(self._sql_of(claim).extend(**delivery)), "extended")

    def _delivery(self, row: Row, claim: Claim, results: StoredResults, success: str) -> Mapping[str, object]:
        missing = [result.key for result in row.missing]
        lacking = f"{len(row.stored)} of {len(row.results)} results are delivered; KIE has not given the others"
        delivered = replace(
            row, status=row.status if row.status in SUCCEEDED else success, shown=len(row.stored),
            gave_up=False, reopened=False, failures=0, failing_since=None, failing=(),
            reason=lacking if missing else None, finding="results_missing" if missing else None,
        )  # fmt: skip
        return {
            **_fence(claim), **_facts(delivered), **_receipt(results.receipt),
            "status_read": row.status, "url_read": row.asset_url,
            "numbers": [result.n for result in row.stored], "missing": missing or None,
            "addresses": list(results.addresses), "paths": list(results.paths),
            "recheck": results.recheck_at, "second_look": self._second_look, "lock_wait": self._lock_wait,
        }  # fmt: skip

    async def lose(self, row: Row, claim: Claim, why: str) -> str | None:
        """Write that a delivered result is lost, with its event; the application's row stays as it is."""
        facts = _facts(replace(row, reason=why, reopened=False))
        record = await self._database.row(*outcome_sql.LOST(**_fence(claim), **facts, url_read=row.asset_url))
        return _outcome(record, "lost")

    async def fail(self, row: Row, claim: Claim, fail: Fail) -> str | None:
        """Write failed with its reason and event, and call the application's hook, all in one transaction.

        Returns the event's kind (failed, gave_up), or None when the application changed the row. Raises
        Permanent (code "hook_failed" when the hook throws, "row_refused" when the application's table refuses the
        failure); nothing was written then.
        """
        kind = "failed" if fail.recheck_at is None else "gave_up"
        reason = {"reason": fail.reason, "until": fail.recheck_at, "kind": kind, "lock_wait": self._lock_wait}
        sql = self._sql_of(claim)
        statement = sql.fail(**_fence(claim), **reason, task_id=row.task_id, status_read=row.status)

        async def once() -> str | None:
            async with self._application.transaction() as connection:
                with lock_refusals(TABLE):
                    outcome = _outcome(await connection.fetchrow(*statement), kind)
                if outcome is not None and not self._handover:
                    await self._refund(connection, sql, row, fail.reason)
                return outcome

        async with self._failing:
            with _refusals():
                return await self._application.run(once)

    async def _refund(self, connection: Any, sql: "_LedgerSql", row: Row, reason: str) -> None:
        """Call the application's hook on_failed where it is due: once for each task, or once for each generation."""
        about = {"generation_id": row.id, "task_id": row.task_id}
        due = await connection.fetchval(*outcome_sql.REFUND_DUE(**about, id_type=sql.table.id_type))
        if due is None:
            return
        call = sql.refund_generation(generation_id=row.id, reason=reason)
        if due == "task":
            call = sql.refund_task(**about, reason=reason)
        try:
            with lock_refusals(HOOK):
                await connection.execute(*call)
        except asyncpg.DeadlockDetectedError:
            raise
        except asyncpg.PostgresError as error:
            hint = "mend the function reconciler.on_failed; the row waits until then"
            raise Permanent(f"reconciler.on_failed threw: {error}", code="hook_failed", hint=hint) from error
        await connection.execute(*outcome_sql.REFUNDED(**about))

    def is_outdated(self, claim: Claim) -> bool:
        """Return whether the application's table is another one than when this claim was made, or cannot be used."""
        try:
            return claim.shape is not None and claim.shape is not self._table.shape
        except TableChanged:
            return True

    def _sql_of(self, claim: Claim) -> "_LedgerSql":
        """Return the statements for the table as it was when this claim was made."""
        return self._sql.present if claim.shape is None else self._sql.of(claim.shape)

    async def _write_row(self, statement: Sequence[Any]) -> Mapping[str, Any] | None:
        """Run a statement that writes the application's row; return its row, or None."""
        sql, *values = statement
        with _refusals():
            return await self._application.write(sql, *values, writes=TABLE)

    async def _write(self, statement: Statement, claim: Claim, **values: object) -> None:
        if await self._database.row(*statement(**_fence(claim), **values)) is None:
            raise LeaseLost


class _LedgerSql:
    """The statements of the ledger for one shape of the application's table."""

    def __init__(self, table: TableShape, *, handover: bool) -> None:
        self.table = table
        self.read = ledger_sql.read(table)
        self.rest = ledger_sql.rest(table, set_generating=False)
        self.rest_generating = ledger_sql.rest(table, set_generating=True)
        self.adopt = ledger_sql.adopt(table)
        self.finish = outcome_sql.finish(table)
        self.repair = outcome_sql.repair(table)
        self.extend = outcome_sql.extend(table)
        self.fail = outcome_sql.fail(table, write=not handover)
        self.refund_task = outcome_sql.refund(table, by_task=True)
        self.refund_generation = outcome_sql.refund(table, by_task=False)


def _document(row: Row) -> Mapping[str, object]:
    """Return the JSON document among the results."""
    documents = (one.text for one in row.results if one.text and one.mime == "application/json")
    return {"document": next(documents, None)}


def _preview(results: StoredResults, table: TableShape) -> Mapping[str, object]:
    """Return the preview_url that is replaced, for a table that has a column for it."""
    return {"former_preview": results.former_preview} if table.holds_text("preview_url") else {}


def _outcome(record: Mapping[str, Any] | None, kind: str) -> str | None:
    if record is None or not record["held"]:
        raise LeaseLost
    return kind if record["written"] else None


def _fence(claim: Claim) -> Mapping[str, object]:
    return {"generation_id": claim.generation_id, "lease": claim.lease}


def _receipt(asset: Asset | None) -> Mapping[str, object]:
    return {name: getattr(asset, name, None) for name in ("n", "version", "verified_by")}


_KEPT = tuple(name for name in ledger_sql.FACTS if name not in {"sources", "results", "failing", "results_task"})


def _facts(row: Row) -> Mapping[str, object]:
    facts: dict[str, object] = {name: getattr(row, ledger_sql.RENAMED.get(name, name)) for name in _KEPT}
    kept = json.dumps(to_json(row.results)) if row.results else None
    facts["healed_at"] = list(row.healed_at) or None
    failing = json.dumps(series.to_json(row.failing)) if row.failing else None
    more = {"sources": list(row.sources), "results": kept, "failing": failing, "results_task": row.task_id}
    return {**facts, "seen_status": row.status, **more}


# Only the past makes sense here. A time ahead was written by a clock that jumped, and counts as now.
_PAST = (
    "acknowledged_at", "answered_at", "completed_at", "polled_at", "failing_since", "empty_since", "empty_counted_at",
    "missing_since",
)  # fmt: skip

_GENERATION = (
    "id", "user_id", "task_id", "status", "kind", "model", "asset_url", "created_at", "task_since", "create_refusal",
    "asset_is_result", "preview_url", "made_again", "another_task",
)  # fmt: skip


def _row(record: Mapping[str, Any]) -> Row:
    generation = {name: record[name] for name in _GENERATION}
    generation["offered"] = tuple(record["offered"] or ())
    if record["seen_task"] != record["task_id"]:
        # The application gave the row another task: our facts are about the old one.
        return Row(**generation)
    ours = record["results_task"] == record["task_id"]
    known = {
        ledger_sql.RENAMED.get(name, name): record[name]
        for name in _KEPT
        if name != "task_id" and (ours or name not in ledger_sql.NEWER)
    }
    known["locked_write"] = locked_write.from_json(json.loads(record["locked_write"] or "{}"))
    known |= {name: min(known[name], record["now"]) for name in _PAST if known.get(name) is not None}
    known["healed_at"] = tuple(known.get("healed_at") or ())
    known["results"] = results = _results(record, ours=ours)
    known["failing"] = series.from_json(json.loads(record["failing"] or "{}"), record["now"]) if ours else ()
    # Another daemon has asked since, which keeps only addresses: the numbers stay, the addresses are asked for again.
    known["stale"] |= ours and _sources(results) != tuple(record["sources"] or ())
    assets = tuple(build(Asset, item) for item in json.loads(record["assets"] or "[]"))
    return Row(**generation, **known, assets=assets)


def _results(record: Mapping[str, Any], *, ours: bool) -> tuple[Result, ...]:
    """Return the results of a record; where only a daemon that keeps addresses wrote of this task, those."""
    kept = from_json(json.loads(record["results"] or "[]")) if ours else ()
    return kept or from_addresses(record["sources"] or ())


def _sources(results: Sequence[Result]) -> tuple[str, ...]:
    return tuple(result.addresses[0] for result in results if result.addresses)
