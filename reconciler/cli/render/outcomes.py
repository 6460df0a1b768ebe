"""How the outcomes of `sync`, `retry` and `backfill` look, and the progress bar of `backfill`."""

from collections.abc import Iterable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reconciler.cli.render.console import show_table, text
from reconciler.operations.operator import OperationOutcome


def show_outcomes(outcomes: Iterable[OperationOutcome]) -> None:
    """Print how generations stand after an operation."""
    rows = (
        (outcome.generation_id, outcome.task_id, outcome.word, outcome.asset_url or outcome.why) for outcome in outcomes
    )
    show_table(("generation", "task", "outcome", "where or why"), rows)


class BackfillProgress:
    """The progress of a backfill, on standard error; without `shown` nothing is printed."""

    def __init__(self, *, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self._bar = self._progress.add_task("looking", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def page(self, looked_at: int, found: int) -> None:
        """Show how many rows were looked at so far, and how many of them are to be delivered."""
        self._progress.update(self._bar, description=f"looked at {looked_at} rows, delivering", total=found)

    def ended(self, outcome: OperationOutcome) -> None:
        """Advance by one generation, and print why where it was not delivered."""
        self._progress.advance(self._bar)
        if outcome.word != "delivered":
            self._progress.console.print(text(f"{outcome.generation_id} {outcome.word}: {outcome.why}"))
