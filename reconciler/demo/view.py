"""The screen of the demo: one line for each generation.

On a terminal the lines are updated; elsewhere a line is printed whenever a generation changes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reconciler.demo.shop import OrderedGeneration
from reconciler.domain.transfer import Transfer

_COLOURS = {"generating": "yellow", "success": "green", "failed": "red"}


@dataclass(frozen=True, slots=True)
class ProgressLine:
    """The present state of one generation; `age` in seconds, `size` in bytes."""

    ordered: OrderedGeneration
    status: str
    age: float
    size: int
    error: str | None


class DemoView:
    """The screen of the demo."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
        self._shown: dict[str, str] = {}
        self._started = time.monotonic()

    def shown(self) -> AbstractContextManager[object]:
        """Return the context in which `show` may be called."""
        return self._live or nullcontext()

    def show(self, lines: Sequence[ProgressLine], transfers: Mapping[str, Transfer]) -> None:
        """Show every generation and its running transfers."""
        if self._live is not None:
            self._live.update(_table(lines, transfers))
            return
        for line in lines:
            word = _state(line, transfers.get(line.ordered.generation_id))
            if self._shown.get(line.ordered.generation_id) != word:
                self._shown[line.ordered.generation_id] = word
                size = f" {decimal(line.size)}" if line.size else ""
                since = time.monotonic() - self._started
                self._console.print(
                    f"{since:6.1f} s  {line.ordered.generation_id[:8]}  {line.ordered.wish.model:28} {word}{size}",
                    highlight=False,
                )


def _state(line: ProgressLine, transfer: Transfer | None) -> str:
    if transfer is not None and line.status not in _COLOURS.keys() - {"generating"}:
        return f"{line.status}, {transfer.stage} {transfer.n + 1} of {len(line.ordered.wish.results)}"
    return f"{line.status}: {line.error}" if line.error else line.status


def _table(lines: Sequence[ProgressLine], transfers: Mapping[str, Transfer]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("generation", "model", "state", "age", "bytes", "transfer"):
        table.add_column(title, justify="right" if title in ("age", "bytes") else "left", no_wrap=True)
    for line in lines:
        transfer = transfers.get(line.ordered.generation_id)
        table.add_row(
            line.ordered.generation_id[:8],
            line.ordered.wish.model,
            Text(_state(line, transfer), style=_COLOURS.get(line.status, "")),
            f"{line.age:.1f} s",
            decimal(line.size) if line.size else "",
            ProgressBar(total=transfer.total, completed=transfer.done, width=24) if transfer else "",
        )
    return table
