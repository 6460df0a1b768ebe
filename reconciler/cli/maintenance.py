"""The commands that look after what is stored: compare it with its receipts, and take away what nobody needs."""

# ruff: noqa: PLC0415 - see shared.py

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.options import AsJson, settings_for

if TYPE_CHECKING:
    from reconciler.operations.audit import AuditTotals, BrokenDelivery
    from reconciler.settings import Settings


def _span(text: str) -> timedelta:
    from reconciler.settings.values import duration

    try:
        found = duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    assert isinstance(found, timedelta)
    return found


def audit(
    *,
    since: Annotated[str, typer.Option(metavar="DURATION", help="How far back: 7d, 24h.")] = "7d",
    as_json: AsJson = False,
) -> None:
    """Read back what was delivered, and repair what is broken.

    Every byte is compared with its receipt. Exit 1 when anything was missing or changed, repaired or not.
    """
    from reconciler.cli.render import tables

    broken: list[BrokenDelivery] = []
    totals = asyncio.run(_audited(settings_for(), _span(since), broken, aloud=not as_json))
    if as_json:
        tables.show_json({"totals": totals, "broken": broken})
    else:
        typer.echo(
            f"{totals.deliveries} deliveries, {totals.objects} objects, {totals.bytes} bytes read back: "
            f"{totals.broken} broken, {totals.repaired} of them repaired; {totals.unread} could not be read, "
            f"{totals.left} are not shown by their rows"
        )
    raise typer.Exit(0 if totals.well else 1)


async def _audited(settings: Settings, since: timedelta, broken: list[BrokenDelivery], *, aloud: bool) -> AuditTotals:
    from reconciler.bootstrap import operator, parts
    from reconciler.operations.audit import AuditReading, audit
    from reconciler.postgres.ledger.verification import VerificationQueue

    def on_broken(one: BrokenDelivery) -> None:
        broken.append(one)
        if aloud:
            typer.echo(f"{one.generation_id}  {one.word}  {one.why}")

    async with parts(settings) as built:
        queue = VerificationQueue(built.database, built.table, term=settings.lease_seconds)
        reading = AuditReading(queue, built.audit, on_broken)
        return await audit(operator(built, at_once=settings.concurrency), reading, since)


def cleanup(
    *,
    failed_older_than: Annotated[str, typer.Option(metavar="DURATION", help="How old a failure must be: 30d.")] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old failures, and stored objects that nobody names.

    Only failures with nothing stored. An object goes an hour after its row was cancelled, deleted or given another
    object.
    """
    from reconciler.cli.render import tables

    failed, orphans = asyncio.run(_cleaned(settings_for(), _span(failed_older_than), dry_run=dry_run))
    if as_json:
        tables.show_json({"failed": failed, "orphans": orphans, "dry_run": dry_run})
        return
    word = "to delete" if dry_run else "deleted"
    typer.echo("\n".join([*orphans, f"{failed} failed generations {word}, {len(orphans)} objects {word}"]))


async def _cleaned(settings: Settings, older: timedelta, *, dry_run: bool) -> tuple[int, list[str]]:
    from reconciler.bootstrap import parts
    from reconciler.postgres.retention import Retention
    from reconciler.worker.prune import delete_failed, remove_orphans

    async with parts(settings) as built:
        upkeep = Retention(built.database, built.table, term=settings.lease_seconds)
        failed = await delete_failed(upkeep, older, dry_run=dry_run)
        return failed, await remove_orphans(upkeep, built.store, dry_run=dry_run)
