"""The commands `sync`, `retry` and `backfill`, which visit generations now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.options import AsJson, ask, emit, fail, operate, settings_for

if TYPE_CHECKING:
    from reconciler.operations.operator import OperationOutcome


def sync(task_id: Annotated[str, typer.Argument(help="KIE's id of the task.")], *, as_json: AsJson = False) -> None:
    """Reconcile one task now.

    Exit 0 only when it is delivered or has failed for good.
    """
    from reconciler.operations.sync import sync

    outcomes = operate(settings_for(), lambda operator: sync(operator, task_id))
    if not outcomes:
        fail(f"no generation has the task {task_id}")
    _print_and_exit(outcomes, as_json=as_json)


def retry(
    generation_id: Annotated[str, typer.Argument(help="The generation's id.")], *, as_json: AsJson = False
) -> None:
    """Try one generation again.

    It is reopened where we gave it up or parked it. Where KIE refused it, KIE is asked again.
    """
    from reconciler.operations.retry import retry

    outcome = operate(settings_for(), lambda operator: retry(operator, generation_id))
    if outcome is None:
        fail(f"no generation has the id {generation_id}")
    _print_and_exit([outcome], as_json=as_json)


def backfill(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be delivered.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver successes that have no stored asset.

    Also those whose asset_url still points at the provider. If it is stopped, the next run goes on.
    """
    from reconciler.cli.render.outcomes import BackfillProgress, show_outcomes
    from reconciler.operations.backfill import backfill, find_unstored

    if dry_run:
        found = ask(settings_for("database_url"), find_unstored)
        lines = "\n".join([*found, f"{len(found)} to deliver"])
        emit({"found": found}, lambda _: typer.echo(lines), as_json=as_json)
        return
    # The bar first: then log lines are written above it and not through it.
    with BackfillProgress(shown=not as_json) as progress:
        outcomes = operate(
            settings_for(), lambda operator: backfill(operator, on_page=progress.page, on_outcome=progress.ended)
        )
    not_delivered = [outcome for outcome in outcomes if outcome.word != "delivered"]
    delivered = len(outcomes) - len(not_delivered)
    if not as_json:
        typer.echo(f"{delivered} delivered, {len(not_delivered)} not")
    emit({"healed": delivered, "left": not_delivered}, lambda _: show_outcomes(not_delivered), as_json=as_json)
    raise typer.Exit(1 if not_delivered else 0)


def _print_and_exit(outcomes: Sequence[OperationOutcome], *, as_json: bool) -> None:
    from reconciler.cli.render.outcomes import show_outcomes

    emit(outcomes, show_outcomes, as_json=as_json)
    raise typer.Exit(0 if all(outcome.settled for outcome in outcomes) else 1)
