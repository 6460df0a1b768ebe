"""The commands that move generations by hand: they need everything that the daemon needs."""

# ruff: noqa: PLC0415 - see shared.py

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from reconciler.cli.options import AsJson, fail, settings_for
from reconciler.cli.reports import ask

if TYPE_CHECKING:
    from reconciler.operations.actions import OperationOutcome, Operator
    from reconciler.settings import Settings

T = TypeVar("T")


def sync(task_id: Annotated[str, typer.Argument(help="KIE's id of the task.")], *, as_json: AsJson = False) -> None:
    """Reconcile one task now.

    Exit 0 only when it is delivered or has failed for good.
    """
    from reconciler.operations import actions

    outcomes = _do(settings_for(), lambda desk: actions.sync(desk, task_id))
    if not outcomes:
        fail(f"no generation has the task {task_id}")
    _print_and_exit(outcomes, as_json=as_json)


def retry(
    generation_id: Annotated[str, typer.Argument(help="The generation's id.")], *, as_json: AsJson = False
) -> None:
    """Give one generation another chance.

    What was given up or parked is reopened; about what KIE refused, KIE is asked again.
    """
    from reconciler.operations import actions

    outcome = _do(settings_for(), lambda desk: actions.retry(desk, generation_id))
    if outcome is None:
        fail(f"no generation has the id {generation_id}")
    _print_and_exit([outcome], as_json=as_json)


def backfill(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be delivered.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver successes that have no stored asset.

    Where asset_url still points at the provider, too. Run it again to go on where it was stopped.
    """
    from reconciler.cli.render import tables
    from reconciler.operations import actions

    if dry_run:
        found = ask(settings_for("database_url"), actions.unhealed)
        if as_json:
            tables.show_json({"found": found})
        else:
            typer.echo("\n".join([*found, f"{len(found)} to deliver"]))
        return
    with tables.BackfillProgress(shown=not as_json) as healing:
        # Not before the bar is there, so that lines of the log are written above it and not through it.
        outcomes = _do(
            settings_for(), lambda desk: actions.backfill(desk, on_page=healing.page, on_outcome=healing.ended)
        )
    left = [one for one in outcomes if one.word != "delivered"]
    if as_json:
        tables.show_json({"healed": len(outcomes) - len(left), "left": left})
    else:
        typer.echo(f"{len(outcomes) - len(left)} healed, {len(left)} not")
        tables.show_outcomes(left)
    raise typer.Exit(1 if left else 0)


def _do(settings: Settings, chore: Callable[[Operator], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(_done(settings, chore))


async def _done(settings: Settings, chore: Callable[[Operator], Coroutine[Any, Any, T]]) -> T:
    from reconciler.bootstrap import operator, parts

    async with parts(settings) as built:
        return await chore(operator(built, at_once=settings.concurrency))


def _print_and_exit(outcomes: Sequence[OperationOutcome], *, as_json: bool) -> None:
    from reconciler.cli.render import tables

    if as_json:
        tables.show_json(outcomes)
    else:
        tables.show_outcomes(outcomes)
    raise typer.Exit(0 if all(outcome.settled for outcome in outcomes) else 1)
