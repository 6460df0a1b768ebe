"""docs/ADDING.md names only files and names that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ADDING.md").read_text()
WORDS = re.findall(r"`([^`\n]+)`", PAGE)
TO_BE_MADE = re.compile(r"NAME|NNN|\*")
FOLDERS = ("reconciler", "sql", "tests")


def sources() -> str:
    """Everything that a checklist can speak of, but for this file."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".sql"}]
    return "\n".join(path.read_text() for path in files if path != Path(__file__).resolve())


def test_every_file_that_a_checklist_names_is_there() -> None:
    paths = [word for word in WORDS if "/" in word and word.startswith(FOLDERS) and not TO_BE_MADE.search(word)]
    assert len(paths) > 30
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_name_that_a_checklist_uses_is_in_the_code() -> None:
    names = {word for word in WORDS if re.fullmatch(r"[A-Za-z_]{3,}", word) and not TO_BE_MADE.search(word)}
    assert len(names) > 30
    known = set(re.findall(r"[A-Za-z_]+", sources()))
    assert not names - known


def test_every_page_that_a_checklist_leads_to_is_there() -> None:
    assert all((ROOT / "docs" / target).exists() for target in re.findall(r"\]\(([^)]+)\)", PAGE))
