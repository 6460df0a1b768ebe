"""The command `migrate`."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.options import AsJson, emit, settings_for

if TYPE_CHECKING:
    from reconciler.postgres.migrations.missing_files import MissingFiles
    from reconciler.settings import Settings

_UP_TO_DATE = "the database is up to date"


def migrate(
    *,
    application: Annotated[
        bool, typer.Option("--application", help="Also bring public.generations up to the specification.")
    ] = False,
    strict_statuses: Annotated[
        bool, typer.Option("--strict-statuses", help="Also convert older statuses and narrow the CHECK.")
    ] = False,
    printed: Annotated[bool, typer.Option("--print", help="Print the SQL instead of applying it.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say what is missing; exit 1 if anything is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database up to date.

    It can run twice, and in two places at once.
    """
    from reconciler.postgres.migrations import migrate
    from reconciler.postgres.migrations.schema_level import alive_within

    if strict_statuses and not application:
        raise typer.BadParameter("needs --application", param_hint="--strict-statuses")
    if printed and check:
        raise typer.BadParameter("only one of the two", param_hint="--check, --print")
    if printed:
        bucket = settings_for().storage_bucket
        typer.echo(migrate.printed(application=application, strict_statuses=strict_statuses, bucket=bucket))
        return
    settings = settings_for("database_url")
    if check:
        found = asyncio.run(_missing_files(settings))
        _print_missing(found, as_json=as_json)
        raise typer.Exit(1 if found.due else 0)
    applied = asyncio.run(
        migrate.migrate(
            settings.database_url.get_secret_value(),
            application=application,
            strict_statuses=strict_statuses,
            alive=alive_within(settings.lease_seconds),
            bucket=settings.storage_bucket,
            warn=lambda text: typer.echo(f"warning: {text}", err=True),
        )
    )
    lines = "\n".join(f"applied {name}" for name in applied) or _UP_TO_DATE
    emit({"applied": applied}, lambda _: typer.echo(lines), as_json=as_json)


async def _missing_files(settings: Settings) -> MissingFiles:
    from reconciler.postgres.migrations.schema_level import alive_within
    from reconciler.postgres.pool import Database
    from reconciler.postgres.preflight import missing

    database = Database(settings.database_url.get_secret_value(), size=1)
    try:
        return await missing(database, alive_within(settings.lease_seconds))
    finally:
        await database.close()


def _print_missing(found: MissingFiles, *, as_json: bool) -> None:
    """Print each file with its phase, and which daemons the files of phase `after` wait for."""
    lines = [f"missing {script.name} (phase {script.phase})" for script in found.due]
    if found.later:
        running = ", ".join(map(str, found.older))
        names = ", ".join(script.name for script in found.later)
        lines.append(f"later   {names} (phase after), because older daemons still run: {running}")
    value = {
        "missing": [script.name for script in found.due],
        "later": [script.name for script in found.later],
        "phases": {script.name: script.phase for script in (*found.due, *found.later)},
        "older": [dataclasses.asdict(daemon) for daemon in found.older],
    }
    emit(value, lambda _: typer.echo("\n".join(lines) or _UP_TO_DATE), as_json=as_json)
