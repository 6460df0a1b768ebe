"""The command line: one file a group of commands, and the exit codes.

Exit 0: done. 1: ran and met a failure. 2: wrong usage or configuration. Data goes to standard output, logs and errors
to standard error. A command reads its arguments, calls `operations` or the reports, and prints through `render/`.
"""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from reconciler import __version__
from reconciler.cli import actions, doctor, maintenance, migrate, reports, run, sandbox, top
from reconciler.errors import Config, ReconcilerError

_GENERATION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def main() -> None:
    """Run the command line; the console script."""
    try:
        application()()
    except ReconcilerError as error:
        *others, last = error.lines if isinstance(error, Config) else (str(error),)
        for line in (*others, "; ".join(part for part in (last, error.hint) if part)):
            typer.echo(f"kie-reconciler: {' '.join(line.split())}", err=True)
        sys.exit(2 if isinstance(error, Config) else 1)


def application() -> typer.Typer:
    """Return all commands, each with its example."""
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
        run.run: "run --observe",
        migrate.migrate: "migrate --application",
        doctor.doctor: "doctor",
        reports.status: "status --json",
        reports.stuck: "stuck",
        reports.explain: f"explain {_GENERATION}",
        top.top: "top",
        actions.sync: "sync 281e5b0f39b9a3ce4ac4c3a4e1b2c3d4",
        actions.retry: f"retry {_GENERATION}",
        actions.backfill: "backfill --dry-run",
        maintenance.audit: "audit --since 24h",
        maintenance.cleanup: "cleanup --failed-older-than 30d --dry-run",
        sandbox.simulate: "simulate --port 8080 --speed 20 --faults 0.3",
        sandbox.demo: "demo --faults",
    }
    for command, example in commands.items():
        app.command(epilog=f"Example: kie-reconciler {example}")(command)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kie-reconciler {__version__}")
        raise typer.Exit


def _options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Deliver the results of KIE.ai generations to the users who paid for them."""
