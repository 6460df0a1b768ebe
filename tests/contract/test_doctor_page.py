"""docs/OPERATIONS.md lists every check of `doctor` in order, and no other."""

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
JUDGES = {"warn", "fail", "judge_clock", "not_looked"}


def test_the_page_lists_every_check_in_order_and_no_other() -> None:
    assert [row[0].strip("`") for row in ROWS] == list(NAMES)


def test_the_page_tells_with_which_words_each_check_can_end() -> None:
    """The words are read from the code; a check that could not be looked at is a warning, too."""
    words_in_code: dict[str, set[str]] = {name: set() for name in NAMES}
    for path in (ROOT / "reconciler" / "operations" / "doctor").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in JUDGES:
                continue
            if isinstance(call.args[0], ast.Constant) and call.args[0].value in words_in_code:
                words_in_code[call.args[0].value].add(call.func.id)
    for name, _, warns, fails in ROWS:
        words = words_in_code[name.strip("`")]
        assert bool(warns) == bool(words & {"warn", "judge_clock"}), name
        assert bool(fails) == bool(words & {"fail", "judge_clock"}), name
