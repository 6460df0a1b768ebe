"""How answers look: tables for people, JSON for programs; both on standard output.

What the application and KIE wrote is hostile input: it is shown as text, never as markup, and cannot move the cursor.
Called by the command line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reconciler.domain.findings import format_seconds
from reconciler.operations.explain import ExplainTerms, lines, story, whole
from reconciler.postgres.reports.generation_details import GenerationDetails
from reconciler.postgres.reports.reports import StatusReport, StuckGeneration

if TYPE_CHECKING:  # a question alone has no need of the engine, which takes its time to be imported
    from reconciler.operations.actions import OperationOutcome

PIPED_WIDTH = 240
"""Columns where nobody's window says how many there are: whoever pipes a table wants its lines whole."""


def show_json(value: object) -> None:
    """Print dataclasses, lists and mappings of them as one JSON document; times as ISO 8601 or seconds."""
    sys.stdout.write(json.dumps(value, default=as_plain, indent=2) + "\n")


def as_plain(value: object) -> object:
    """Return what JSON has no form of as something that it has; for `json.dumps`."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def show_status(status: StatusReport) -> None:
    """Print the figures of the last day and of this moment."""
    percent = "-" if status.success_percent is None else f"{status.success_percent:.1f} %"
    _pairs(
        {
            "last 24 h": f"{status.total} generations",
            "  success": f"{status.success} ({percent})",
            "  failed": str(status.failed),
            "  generating": str(status.generating),
            "  time to delivery": f"mean {_seconds(status.mean_seconds)}, p95 {_seconds(status.p95_seconds)}",
            "  stored": f"{decimal(status.stored_bytes)} in {status.stored_files} files",
            "in flight": str(status.in_flight),
            "stuck": str(status.stuck),
            "replicas alive": str(status.replicas),
        }
    )


def show_stuck(stuck: Sequence[StuckGeneration], after: timedelta) -> None:
    """Print the generations in flight for too long, the oldest first."""
    if not stuck:
        _say(f"nothing is in flight for longer than {format_seconds(after.total_seconds())}")
        return
    rows = ((one.id, one.task_id, one.kind, one.model, one.status, format_seconds(one.age), one.why) for one in stuck)
    _table(("generation", "task", "kind", "model", "status", "age", "why"), rows)


def case_as_json(case: GenerationDetails, terms: ExplainTerms) -> Mapping[str, object]:
    """Return a case with its story and what happened, for `--json`."""
    return {**asdict(case), "story": story(case, terms), "happened": lines(case)}


def show_case(case: GenerationDetails, terms: ExplainTerms) -> None:
    """Print one generation's story and what happened to it."""
    _say(f"generation {case.generation.id}")
    _pairs(whole(case, terms))


def show_outcomes(outcomes: Iterable[OperationOutcome]) -> None:
    """Print how generations stand after a chore."""
    rows = ((one.generation_id, one.task_id, one.word, one.asset_url or one.why) for one in outcomes)
    _table(("generation", "task", "outcome", "where or why"), rows)


class BackfillProgress:
    """The progress of a backfill, on standard error; not `shown`, it only counts."""

    def __init__(self, *, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self._bar = self._progress.add_task("looking", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def page(self, looked: int, found: int) -> None:
        """So many rows were looked at by now, and so many of them are to be delivered."""
        self._progress.update(self._bar, description=f"looked at {looked} rows, delivering", total=found)

    def ended(self, outcome: OperationOutcome) -> None:
        """One generation is through."""
        self._progress.advance(self._bar)
        if outcome.word != "delivered":
            self._progress.console.print(text(f"{outcome.generation_id} {outcome.word}: {outcome.why}"))


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)


def _say(told: str) -> None:
    console().print(text(told))


def _pairs(pairs: Mapping[str, str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        table.add_row(text(name, style="dim"), text(value))
    console().print(table)


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    console().print(grid(names, rows))


def grid(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table of whatever can be shown as text, and of bars."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in names:
        # An id that is cut cannot be copied.
        table.add_column(name, overflow="fold", no_wrap=name in ("generation", "age"))
    for row in rows:
        table.add_row(
            *(value if isinstance(value, ProgressBar) else text("-" if value is None else str(value)) for value in row)
        )
    return table


def text(told: str, style: str = "") -> Text:
    """Return what anybody may have written, as text that cannot move the cursor."""
    return Text("".join(letter if letter.isprintable() else " " for letter in told), style=style)


def console() -> Console:
    """Return where answers go, as wide as it is."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
