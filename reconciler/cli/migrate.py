"""The commands that run something: the daemon, the migration, a local KIE, the demo."""

# ruff: noqa: PLC0415 - see shared.py

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.options import AsJson, settings_for
from reconciler.errors import Config

if TYPE_CHECKING:
    from reconciler.settings import Settings


def run(
    observe: Annotated[
        bool, typer.Option("--observe", help="Ask, count and alert, but store and write nothing.")
    ] = False,
) -> None:
    """Be the daemon, until SIGTERM or Ctrl-C."""
    # The first process of a container is not ended by a signal that it does not catch, and the imports take a second.
    signal.signal(signal.SIGTERM, _unbegun)

    from reconciler import daemon
    from reconciler.malloc import economize
    from reconciler.systemd.notify import SupervisorSocket

    economize()
    supervisor = SupervisorSocket.from_environment(os.environ)
    raise typer.Exit(asyncio.run(daemon.run(settings_for(), observe=observe, supervisor=supervisor)))


def _unbegun(*_: object) -> None:
    """Leave before anything was begun."""
    raise SystemExit(0)


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

    Safe to run twice, and by two at once.
    """
    from reconciler.postgres.migrations import migrate as edge

    if strict_statuses and not application:
        raise typer.BadParameter("it goes with --application", param_hint="--strict-statuses")
    if printed and check:
        raise typer.BadParameter("one of the two", param_hint="--check, --print")
    if printed:
        typer.echo(edge.printed(application=application, strict_statuses=strict_statuses))
        return
    settings = settings_for("database_url")
    if check:
        missing = asyncio.run(_behind(settings))
        _print_files("missing", missing, as_json=as_json)
        raise typer.Exit(1 if missing else 0)
    applied = asyncio.run(
        edge.migrate(
            settings.database_url.get_secret_value(),
            application=application,
            strict_statuses=strict_statuses,
            warn=lambda text: typer.echo(f"warning: {text}", err=True),
        )
    )
    _print_files("applied", applied, as_json=as_json)


async def _behind(settings: Settings) -> list[str]:
    from reconciler.postgres.migrations.migrate import behind
    from reconciler.postgres.pool import Database

    database = Database(settings.database_url.get_secret_value(), size=1)

    async def look() -> list[str]:
        async with database.transaction() as connection:
            return await behind(connection)

    try:
        return await database.run(look)
    finally:
        await database.close()


def _print_files(what: str, files: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        from reconciler.cli.render import console as tables

        tables.show_json({what: files})
    else:
        typer.echo("\n".join(f"{what} {name}" for name in files) or "the database is up to date")


def simulate(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same KIE.")] = 0,
    replay: Annotated[
        Path | None, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Recorded tasks to live again.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="20: a task of 100 s takes 5.")] = 1.0,
    faults: Annotated[float, typer.Option(min=0, max=1, help="The share of requests that go wrong.")] = 0.0,
) -> None:
    """Be a local KIE, until Ctrl-C.

    Its address is the first line printed.
    """
    from reconciler.simulator import Simulator
    from reconciler.simulator.serve import serve

    try:
        serve(Simulator(port=port, seed=seed, speed=speed, faults=faults), replay)
    except OSError as error:
        raise Config(f"cannot listen on port {port}: {error.strerror}", hint="choose another --port") from error


def demo(
    *,
    generations: Annotated[int, typer.Option(min=1, help="How many to order.")] = 24,
    serve: Annotated[bool, typer.Option("--serve", help="Stay up afterwards, until Ctrl-C.")] = False,
    faults: Annotated[bool, typer.Option("--faults", help="A third of everything fails on the way.")] = False,
) -> None:
    """Play the whole job on this machine.

    Every stored byte is compared with its source; exit 0 only if all arrived.
    """
    from reconciler import demo as play

    raise typer.Exit(play.main(generations=generations, serve=serve, faults=faults))
