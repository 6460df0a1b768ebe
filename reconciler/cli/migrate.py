"""The command `migrate`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.options import AsJson, emit, settings_for

if TYPE_CHECKING:
    from reconciler.settings import Settings


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

    if strict_statuses and not application:
        raise typer.BadParameter("needs --application", param_hint="--strict-statuses")
    if printed and check:
        raise typer.BadParameter("only one of the two", param_hint="--check, --print")
    if printed:
        typer.echo(migrate.printed(application=application, strict_statuses=strict_statuses))
        return
    settings = settings_for("database_url")
    if check:
        missing_files = asyncio.run(_missing_files(settings))
        _print_files("missing", missing_files, as_json=as_json)
        raise typer.Exit(1 if missing_files else 0)
    applied = asyncio.run(
        migrate.migrate(
            settings.database_url.get_secret_value(),
            application=application,
            strict_statuses=strict_statuses,
            warn=lambda text: typer.echo(f"warning: {text}", err=True),
        )
    )
    _print_files("applied", applied, as_json=as_json)


async def _missing_files(settings: Settings) -> list[str]:
    from reconciler.postgres.pool import Database
    from reconciler.postgres.preflight import missing

    database = Database(settings.database_url.get_secret_value(), size=1)
    try:
        return await missing(database)
    finally:
        await database.close()


def _print_files(word: str, files: Sequence[str], *, as_json: bool) -> None:
    lines = "\n".join(f"{word} {name}" for name in files) or "the database is up to date"
    emit({word: files}, lambda _: typer.echo(lines), as_json=as_json)
