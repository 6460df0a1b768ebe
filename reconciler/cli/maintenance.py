"""The commands `audit` and `cleanup`: verify what was delivered, and delete what is no longer needed."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.options import AsJson, emit, settings_for

if TYPE_CHECKING:
    from reconciler.operations.audit import AuditTotals, BrokenDelivery


def _duration(text: str) -> timedelta:
    from reconciler.settings.values import duration

    try:
        parsed = duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from error
    assert isinstance(parsed, timedelta)
    return parsed


def audit(
    *,
    since: Annotated[str, typer.Option(metavar="DURATION", help="How far back: 7d, 24h.")] = "7d",
    as_json: AsJson = False,
) -> None:
    """Read back what was delivered, and repair what is broken.

    Every byte is compared with its receipt. Exit 1 when anything was missing or changed, even if it was repaired.
    """
    from reconciler.bootstrap import operator, parts
    from reconciler.operations.audit import Audit
    from reconciler.postgres.ledger.verification import VerificationQueue

    settings, period, broken = settings_for(), _duration(since), []

    def on_broken(delivery: BrokenDelivery) -> None:
        broken.append(delivery)
        if not as_json:
            typer.echo(f"{delivery.generation_id}  {delivery.word}  {delivery.why}")

    async def run() -> AuditTotals:
        async with parts(settings) as built:
            queue = VerificationQueue(built.database, built.table, term=settings.lease_seconds)
            audit = Audit(operator(built, at_once=settings.concurrency), queue, built.verification, on_broken)
            return await audit.run(period)

    totals = asyncio.run(run())
    summary = (
        f"{totals.deliveries} deliveries, {totals.objects} objects, {totals.bytes} bytes read back: "
        f"{totals.broken} broken, {totals.repaired} of them repaired; {totals.unread} could not be read, "
        f"{totals.left} are no longer shown by their rows"
    )
    emit({"totals": totals, "broken": broken}, lambda _: typer.echo(summary), as_json=as_json)
    raise typer.Exit(0 if totals.well else 1)


def cleanup(
    *,
    failed_older_than: Annotated[str, typer.Option(metavar="DURATION", help="How old a failure must be: 30d.")] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old failures, and stored objects that no row shows.

    Only failures with nothing stored are deleted. An object is deleted an hour after its row was cancelled, deleted or
    given another object. Nothing is deleted while the database's clock cannot be trusted.
    """
    from reconciler.bootstrap import parts
    from reconciler.postgres.clock import CheckedDatabase, DatabaseClock
    from reconciler.postgres.orphans import Orphans
    from reconciler.postgres.retention import Retention
    from reconciler.worker.periodic.retention import delete_failed, remove_orphans

    settings, age = settings_for(), _duration(failed_older_than)

    async def run() -> tuple[int, list[str]]:
        async with parts(settings) as built:
            checked = CheckedDatabase(built.pools.application, DatabaseClock(wall=time.time))
            retention = Retention(checked, built.table, term=settings.lease_seconds)
            orphans = Orphans(built.database, built.table, marks=checked)
            failed = await delete_failed(retention, age, dry_run=dry_run)
            return failed, await remove_orphans(orphans, built.store, dry_run=dry_run)

    failed, orphans = asyncio.run(run())
    word = "to delete" if dry_run else "deleted"
    lines = "\n".join([*orphans, f"{failed} failed generations {word}, {len(orphans)} objects {word}"])
    emit({"failed": failed, "orphans": orphans, "dry_run": dry_run}, lambda _: typer.echo(lines), as_json=as_json)
