"""The page for operators tells of every check of `doctor` in its order, and of no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from reconciler.operations.doctor import NAMES

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.split(r"\n## ", (ROOT / "docs" / "OPERATIONS.md").read_text().partition("\n## doctor\n")[2])[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("| `")
]
JUDGES = {"warn", "fail", "clock", "not_looked"}


def test_every_check_is_told_in_its_order_and_no_other_is() -> None:
    assert [row[0].strip("`") for row in ROWS] == list(NAMES)


def test_the_words_that_a_check_can_end_with_are_those_that_the_page_tells() -> None:
    """Those of the code, read from it: a check that could not be looked at is a warning of its own."""
    coded: dict[str, set[str]] = {name: set() for name in NAMES}
    for path in (ROOT / "reconciler" / "operations" / "doctor").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in JUDGES:
                continue
            if isinstance(call.args[0], ast.Constant) and call.args[0].value in coded:
                coded[call.args[0].value].add(call.func.id)
    for name, _, warns, fails in ROWS:
        words = coded[name.strip("`")]
        assert bool(warns) == bool(words & {"warn", "clock"}), name
        assert bool(fails) == bool(words & {"fail", "clock"}), name
