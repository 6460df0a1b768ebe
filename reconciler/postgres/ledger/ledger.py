"""Every write about a claimed generation, each fenced by its lease; the statements are in `statements.py`.

A fenced write begins by locking our own `work` row with the lease in its predicate: token and row lock together are the
fence. A predicate in the UPDATE of the application's table alone would leak, since that statement may wait for a lock
while the lease runs out. Lock order: work, generations, hook. A write that finds the fence gone raises LeaseLost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from reconciler.domain.model import OPEN, SUCCEEDED, Asset, Fail, Reschedule, Row
from reconciler.errors import LeaseLost, Permanent
from reconciler.postgres.claims.claims import Claim
from reconciler.postgres.ledger import ledger_sql, repair_sql
from reconciler.postgres.pool import Database
from reconciler.postgres.reports.generation_details import built
from reconciler.postgres.schema import TableShape

SECOND_LOOK = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ClaimedRow:
    """A row as it was read under its lease, and what the database's clock said then."""

    row: Row
    now: datetime


@dataclass(frozen=True, slots=True)
class StoredResults:
    """What a success writes into the application's row: our addresses and paths, in the order of the sources.

    `receipt` is the asset whose receipt is still to be written.
    """

    addresses: Sequence[str]
    paths: Sequence[str]
    receipt: Asset | None = None


class Ledger:
    """Reads and writes claimed rows; with `handover` a failure is only announced, never written.

    `second_look` is how long after a delivery its objects are compared with their receipts: two leases, so that whoever
    had lost his has written by then what he still could.
    """

    def __init__(
        self, database: Database, shape: TableShape, *, handover: bool = False, second_look: timedelta = SECOND_LOOK
    ) -> None:
        self._database = database
        self._shape = shape
        self._handover = handover
        self._second_look = second_look
        self._repaired = repair_sql.repaired(shape)
        self._read = ledger_sql.read(shape)
        self._rest = ledger_sql.rest(shape, begun=False)
        self._rest_begun = ledger_sql.rest(shape, begun=True)
        self._adopt = ledger_sql.adopt(shape)
        self._finish = ledger_sql.finish(shape)
        self._fail = ledger_sql.fail(shape, write=not handover)

    async def read(self, ids: Sequence[str]) -> dict[str, ClaimedRow]:
        """Read generations with their bookkeeping; those that are gone from the application's table are missing."""
        records = await self._database.fetch(self._read, list(ids))
        return {record["id"]: ClaimedRow(_row(record), record["now"]) for record in records}

    async def note(self, row: Row, claim: Claim) -> None:
        """Keep the facts of a row before the effects that build on them."""
        await self._check(ledger_sql.NOTE, claim, *_facts(row))

    async def rest(self, row: Row, claim: Claim, rest: Reschedule) -> None:
        """Keep the facts, give the lease back, look again at the given time; write `generating` where it begins.

        Only then it raises Permanent (code "row_refused") where the application's table refuses that.
        """
        facts = _facts(replace(row, reason=rest.reason, finding=rest.finding))
        what = (*facts, claim.woken, rest.due_at, rest.earliest)
        if not (rest.set_generating and self._shape.writes_generating):
            await self._check(self._rest, claim, *what)
            return
        with _refusable():
            await self._check(self._rest_begun, claim, *what)

    async def leave(self, row: Row, claim: Claim, why: str) -> None:
        """Keep the facts and look at this row no more until it changes."""
        await self._check(ledger_sql.LEAVE, claim, *_facts(replace(row, reason=why)))

    async def forget(self, claim: Claim) -> None:
        """The application deleted the row: what we stored for it becomes orphans, the bookkeeping goes."""
        await self._database.execute(ledger_sql.FORGET, claim.generation_id, claim.lease)

    async def adopt(self, row: Row, claim: Claim, task_id: str) -> bool:
        """Write the task's id into a row in flight that has none, with what is known of the task.

        False when the row has moved meanwhile, by createTask's own answer for one: then nothing was written. Raises
        Permanent when the application's table refuses the id (code "no_task"), or its trigger does ("row_refused").
        """
        facts = _facts(replace(row, task_id=task_id))
        with _refusable():
            try:
                record = await self._database.row(self._adopt, claim.generation_id, claim.lease, *facts)
            except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError) as error:
                hint = "another row has this task, or the column task_id is too narrow"
                raise Permanent(f"the table refuses the task id: {error}", code="no_task", hint=hint) from error
        return _outcome(record, "adopted") is not None

    async def intend(self, row: Row, claim: Claim, asset: Asset) -> None:
        """Keep the facts and where this asset's bytes will go, before any byte is sent."""
        what = (asset.n, asset.path, asset.mime, asset.size, asset.sha256, asset.md5)
        await self._check(ledger_sql.INTEND, claim, *_facts(row), *what)

    async def begun(self, row: Row, claim: Claim, n: int, upload: str) -> None:
        """Keep a resumable upload's name, so that a successor can go on with it."""
        await self._check(ledger_sql.BEGUN, claim, row.task_id, n, upload)

    async def stored(self, row: Row, claim: Claim, asset: Asset) -> None:
        """Keep the receipt of one asset."""
        await self._check(ledger_sql.STORED, claim, row.task_id, asset.n, asset.version, asset.verified_by)

    async def finish(self, row: Row, claim: Claim, what: StoredResults) -> str | None:
        """Write success with every address, its event and its timing in one statement.

        Returns the event's kind (succeeded, healed, recovered), or None when the application's row has moved meanwhile:
        then nothing was written and the lease is still ours. Raises Permanent (code "row_refused") when the
        application's table refuses the success: then nothing was written either.
        """
        kind = "succeeded" if row.status in OPEN else "healed" if row.status in SUCCEEDED else "recovered"
        took = row.duration.total_seconds() if row.duration else None
        values = (
            claim.generation_id, claim.lease, row.task_id, len(row.sources), row.asset_url,
            list(row.sources), list(what.addresses), list(what.paths),
            row.status if row.status in SUCCEEDED else self._shape.success,
            took, row.model or "", row.status, kind,
            *_receipt(what.receipt), self._second_look,
        )  # fmt: skip
        with _refusable():
            record = await self._database.row(self._finish, *values)
        return _outcome(record, kind)

    async def repaired(self, row: Row, claim: Claim, what: StoredResults) -> str | None:
        """Write that what was broken is delivered once more; the application's row only where an address changes.

        Returns the event's kind (repaired), or None when the application's row has moved meanwhile. Raises Permanent
        (code "row_refused") when the application's table refuses the address.
        """
        values = (
            claim.generation_id, claim.lease, row.task_id, len(row.sources), row.asset_url,
            list(what.addresses), list(what.paths), row.status, *_receipt(what.receipt), self._second_look,
            list(row.sources),
        )  # fmt: skip
        with _refusable():
            record = await self._database.row(self._repaired, *values)
        return _outcome(record, "repaired")

    async def lose(self, row: Row, claim: Claim, why: str) -> str | None:
        """Write that what was delivered is lost, with its event; the application's row stays as it is."""
        row = replace(row, reason=why, reopened=False)
        record = await self._database.row(
            repair_sql.LOST, claim.generation_id, claim.lease, *_facts(row), row.asset_url
        )
        return _outcome(record, "lost")

    async def fail(self, row: Row, claim: Claim, fail: Fail) -> str | None:
        """Write failed with its reason and event, and call the application's hook, all in one transaction.

        Returns the event's kind (failed, gave_up), or None when the application's row has moved meanwhile. Raises
        Permanent (code "hook_failed" when the hook throws, "row_refused" when the application's table refuses the
        failure); nothing was written then.
        """
        kind = "failed" if fail.recheck_at is None else "gave_up"

        async def once() -> str | None:
            async with self._database.transaction() as connection:
                record = await connection.fetchrow(
                    self._fail,
                    claim.generation_id,
                    claim.lease,
                    row.task_id,
                    fail.reason,
                    fail.recheck_at,
                    row.status,
                    kind,
                )
                outcome = _outcome(record, kind)
                if outcome is not None and not self._handover:
                    await self._refund(connection, row.id, fail.reason)
                return outcome

        with _refusable():
            return await self._database.run(once)

    async def _refund(self, connection: Any, generation_id: str, reason: str) -> None:
        if not await connection.fetchval(ledger_sql.REFUND_DUE, generation_id, self._shape.id_type):
            return
        try:
            await connection.execute(ledger_sql.refund(self._shape), generation_id, reason)
        except (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError):
            raise
        except asyncpg.PostgresError as error:
            hint = "mend the function reconciler.on_failed; the row waits until then"
            raise Permanent(f"reconciler.on_failed threw: {error}", code="hook_failed", hint=hint) from error
        await connection.execute(ledger_sql.REFUNDED, generation_id)

    async def _check(self, sql: str, claim: Claim, *more: object) -> None:
        if await self._database.row(sql, claim.generation_id, claim.lease, *more) is None:
            raise LeaseLost


@contextmanager
def _refusable() -> Iterator[None]:
    """Say as Permanent what the application's table says to a write of ours: a trigger, a constraint, a narrow column.

    What waiting, a right or a migration mends has been translated before.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        hint = "mend the trigger, constraint or column of public.generations that refuses it; the row waits until then"
        # Without the details, which repeat the row.
        raise Permanent(f"the table refuses the row: {error.args[0]}", code="row_refused", hint=hint) from error


def _outcome(record: Mapping[str, Any] | None, kind: str) -> str | None:
    if record is None or not record["held"]:
        raise LeaseLost
    return kind if record["moved"] else None


def _receipt(last: Asset | None) -> tuple[object, ...]:
    return (last.n, last.version, last.verified_by) if last else (None, None, None)


def _facts(row: Row) -> tuple[object, ...]:
    values = (getattr(row, ledger_sql.RENAMED.get(name, name)) for name in ledger_sql.FACTS)
    return (row.status, *(list(value) if isinstance(value, tuple) else value for value in values))


_GENERATION = (
    "id",
    "user_id",
    "task_id",
    "status",
    "kind",
    "model",
    "asset_url",
    "created_at",
    "task_since",
    "create_refusal",
    "made_again",
)


def _row(record: Mapping[str, Any]) -> Row:
    generation = {name: record[name] for name in _GENERATION}
    generation["offered"] = tuple(record["offered"] or ())
    if record["seen_task"] != record["task_id"]:
        # The application gave the row another task: what we know is about the old one.
        return Row(**generation)
    known = {ledger_sql.RENAMED.get(name, name): record[name] for name in ledger_sql.FACTS if name != "task_id"}
    known["sources"] = tuple(record["sources"] or ())
    assets = tuple(built(Asset, item) for item in json.loads(record["assets"] or "[]"))
    return Row(**generation, **known, assets=assets)
