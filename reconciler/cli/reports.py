"""The commands that only ask: of the database, and `doctor` of everything else, too."""

# ruff: noqa: PLC0415 - see shared.py

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from reconciler.cli.options import AsJson, fail, settings_for

if TYPE_CHECKING:
    from reconciler.operations.doctor import Check
    from reconciler.postgres.reports.reports import Reports
    from reconciler.settings import Settings

T = TypeVar("T")


def status(*, as_json: AsJson = False) -> None:
    """Tell how the last 24 hours went.

    With what is in flight or stuck now, and how many replicas are alive.
    """
    from reconciler.cli.render import tables

    told = ask(settings_for("database_url"), lambda reports: reports.status())
    if as_json:
        tables.show_json(told)
    else:
        tables.show_status(told)


def stuck(*, as_json: AsJson = False) -> None:
    """List what is in flight for too long, and why.

    Longer than RECONCILER_STUCK_AFTER; the oldest first.
    """
    from reconciler.cli.render import tables

    settings = settings_for("database_url")
    rows = ask(settings, lambda reports: reports.stuck())
    if as_json:
        tables.show_json(rows)
    else:
        tables.show_stuck(rows, settings.stuck_after)


def explain(
    name: Annotated[str, typer.Argument(metavar="ID", help="A generation's id, or a task's.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Tell everything about one generation.

    What is known, why it has not ended, who holds it, which clock runs out first, what happens next and when.
    """
    from reconciler.cli.render import tables
    from reconciler.operations.explain import ExplainTerms

    settings = settings_for("database_url")
    cases = ask(settings, lambda reports: reports.explain(name))
    if not cases:
        fail(f"no generation and no task has the id {name}")
    if as_json:
        tables.show_json([tables.case_as_json(case, ExplainTerms.of(settings)) for case in cases])
    else:
        for case in cases:
            tables.show_case(case, ExplainTerms.of(settings))


def doctor(*, as_json: AsJson = False) -> None:
    """Look at everything that the daemon needs.

    One line each: ok, warn or FAIL, and what to do. Exit 1 with any FAIL. Nothing is changed; the object that storage
    is tried with is removed again.
    """
    from reconciler import settings
    from reconciler.cli.render import doctor, tables
    from reconciler.operations.doctor import failed

    loaded = settings_for("database_url", "kie_api_key", "storage")
    checks = asyncio.run(_examined(loaded, settings.strangers()))
    if as_json:
        tables.show_json(checks)
    else:
        doctor.show(checks)
    raise typer.Exit(1 if failed(checks) else 0)


async def _examined(settings: Settings, strangers: tuple[str, ...]) -> tuple[Check, ...]:
    from reconciler.bootstrap import doctor_clients
    from reconciler.operations.doctor.examine import examine

    async with doctor_clients(settings) as tools:
        return await examine(tools, strangers)


def ask(settings: Settings, question: Callable[[Reports], Coroutine[Any, Any, T]]) -> T:
    """Put a question to the reports."""
    return asyncio.run(_asked(settings, question))


async def _asked(settings: Settings, question: Callable[[Reports], Coroutine[Any, Any, T]]) -> T:
    from reconciler.bootstrap import reports

    async with reports(settings) as answering:
        return await question(answering)
