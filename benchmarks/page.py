"""docs/PERFORMANCE.md: each measurement writes its own sections and leaves the others."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "PERFORMANCE.md"

OWN_COMMAND = "## Beside bad neighbours"
"""The first heading of the sections that `make bench` does not write."""


def replace_section(page: Path, heading: str, text: str) -> None:
    """Put `text`, which begins with `heading`, in the place of the section of that heading, or at the end."""
    before = page.read_text() if page.exists() else ""
    section = re.compile(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if section.search(before):
        after = section.sub(lambda _: f"{text.rstrip()}\n\n", before)
    else:
        after = f"{before.rstrip()}\n\n{text}"
    page.write_text(f"{after.rstrip()}\n")


def replace_front(page: Path, text: str) -> None:
    """Write the page's own part again, and keep the sections that have a command of their own."""
    before = page.read_text() if page.exists() else ""
    place = before.find(f"\n{OWN_COMMAND}\n")
    kept = "" if place < 0 else before[place:]
    page.write_text(f"{text.rstrip()}\n{kept}")
