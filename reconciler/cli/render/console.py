"""What every view is made of: text and tables for people, JSON for programs, on standard output."""

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

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


def show_paragraphs(paragraphs: Mapping[str, str], *, indent: str = "") -> None:
    """Print names and texts in two columns, as wide as the terminal; a word that is longer stays whole.

    So an id or an address can be copied: the terminal itself breaks a line that is too long.
    """
    screen = console()
    longest = max(map(len, paragraphs), default=0)
    for name, value in paragraphs.items():
        first, further = f"{indent}{name:{longest}}  ", f"{indent}{'':{longest}}  "
        lines = textwrap.wrap(
            text(value).plain,
            max(screen.width - len(first), 20),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, line in enumerate(lines or [""]):
            screen.print(text(first if number == 0 else further, "dim") + text(line), soft_wrap=True)


def show_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table with headings."""
    console().print(grid(names, rows))


def show_json(value: object) -> None:
    """Print dataclasses, lists and mappings of them as one JSON document; times as ISO 8601, durations as seconds."""
    sys.stdout.write(json.dumps(value, default=as_plain, indent=2) + "\n")


def as_plain(value: object) -> object:
    """Convert a value that JSON has no form for; the `default` of `json.dumps`."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
