"""Text and tables on standard output, which every view for people is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 240
"""Columns where standard output is no terminal: a table in a pipe should have its lines whole."""


def console() -> Console:
    """Return standard output, as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


def text(untrusted: str, style: str = "") -> Text:
    """Return text that cannot move the cursor: characters that do not print become blanks."""
    return Text("".join(letter if letter.isprintable() else " " for letter in untrusted), style=style)


def grid(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table with headings; bars stay bars, and every other value is shown as text."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in names:
        # An id that is cut cannot be copied.
        table.add_column(name, overflow="fold", no_wrap=name in ("generation", "age"))
    for row in rows:
        table.add_row(
            *(value if isinstance(value, ProgressBar) else text("-" if value is None else str(value)) for value in row)
        )
    return table


def show_line(line: str) -> None:
    """Print one line."""
    console().print(text(line))


def show_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        table.add_row(text(name, style="dim"), text(value))
    console().print(table)


def show_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table with headings."""
    console().print(grid(names, rows))
