"""The command line: what can be typed, and which exit code an error becomes.

0 is done, 1 ran and met a failure, 2 wrong usage or configuration. Data goes to standard output, logs and errors to
standard error. The commands read what is typed, build what they need and print what they are told; the rest is
elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from reconciler import __version__
from reconciler.cli import actions, maintenance, migrate, reports, top
from reconciler.errors import Config, ReconcilerError

_GENERATION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def main() -> None:
    """Run the command line; the console script."""
    try:
        application()()
    except ReconcilerError as error:
        told = "; ".join(part for part in (str(error), error.hint) if part)
        typer.echo(f"kie-reconciler: {' '.join(told.split())}", err=True)
        sys.exit(2 if isinstance(error, Config) else 1)


def application() -> typer.Typer:
    """Return the commands, each with its example."""
    app = typer.Typer(
        callback=_options,
        epilog="Example: kie-reconciler demo. Every command has one in its own --help.",
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,  # they can print local variables, and those hold secrets
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    commands: dict[Callable[..., None], str] = {
        migrate.run: "run --observe",
        migrate.migrate: "migrate --application",
        reports.doctor: "doctor",
        reports.status: "status --json",
        reports.stuck: "stuck",
        reports.explain: f"explain {_GENERATION}",
        top.top: "top",
        actions.sync: "sync 281e5b0f39b9a3ce4ac4c3a4e1b2c3d4",
        actions.retry: f"retry {_GENERATION}",
        actions.backfill: "backfill --dry-run",
        maintenance.audit: "audit --since 24h",
        maintenance.cleanup: "cleanup --failed-older-than 30d --dry-run",
        migrate.simulate: "simulate --port 8080 --speed 20 --faults 0.3",
        migrate.demo: "demo --faults",
    }
    for command, example in commands.items():
        app.command(epilog=f"Example: kie-reconciler {example}")(command)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kie-reconciler {__version__}")
        raise typer.Exit


def _options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Make sure that whoever paid for a KIE.ai generation gets it."""
