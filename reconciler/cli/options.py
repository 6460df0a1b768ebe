"""What several commands share: the option --json, reading the settings, and running a question or an operation."""

# Imports would take most of the time of `--help`: every command imports what it needs inside itself.

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from reconciler.operations.operator import Operator
    from reconciler.postgres.reports.reports import Reports
    from reconciler.settings import Settings

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def settings_for(*required: str) -> Settings:
    """Read the settings, set up the log as they say, and raise Config where one of those `required` is missing."""
    from reconciler import logs, settings

    loaded = settings.load()
    logs.setup(level=loaded.log_level, form=loaded.log_format, secrets=loaded.secrets())
    loaded.require(*required)
    return loaded


def ask(settings: Settings, question: Callable[[Reports], Coroutine[Any, Any, T]]) -> T:
    """Return the answer of the reports; nothing but the database is needed."""

    async def answer() -> T:
        from reconciler.bootstrap import reports

        async with reports(settings) as built:
            return await question(built)

    return asyncio.run(answer())


def operate(settings: Settings, operation: Callable[[Operator], Coroutine[Any, Any, T]]) -> T:
    """Return the result of an operation; everything that the daemon needs is needed."""

    async def result() -> T:
        from reconciler.bootstrap import operator, parts

        async with parts(settings) as built:
            return await operation(operator(built, at_once=settings.concurrency))

    return asyncio.run(result())


def emit(value: T, show: Callable[[T], object], *, as_json: bool) -> None:
    """Print the value as JSON, or as `show` prints it."""
    from reconciler.cli.render.console import show_json

    (show_json if as_json else show)(value)


def fail(message: str) -> NoReturn:
    """Print to standard error what was not found, and exit with 1."""
    typer.echo(f"kie-reconciler: {message}", err=True)
    raise typer.Exit(1)
