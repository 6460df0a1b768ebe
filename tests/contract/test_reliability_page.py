"""The page of reliability has a row for every fault, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "RELIABILITY.md").read_text()
FAULTS = [f"F{n}" for n in range(1, 25)]
LOSSES = [f"L{n}" for n in range(1, 21)]
ROW = re.compile(r"^\| ([FL]\d+) \|(.+)\|$", re.MULTILINE)
ROWS = {number: [cell.strip() for cell in rest.split(" | ")] for number, rest in ROW.findall(PAGE)}
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def written(path: str) -> frozenset[str]:
    """The tests of one file: its functions, and the methods of its classes."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def test_every_fault_has_one_row_and_nothing_else_has() -> None:
    assert [number for number, _ in ROW.findall(PAGE)] == FAULTS + LOSSES


@pytest.mark.parametrize("number", FAULTS + LOSSES)
def test_a_row_tells_the_fault_the_defence_with_its_file_and_tests(number: str) -> None:
    fault, defence, told = ROWS[number]
    assert fault
    files = re.findall(r"`([\w/]+\.(?:py|sql))`", defence)
    assert files
    missing = [name for name in files if not any((ROOT / at / name).is_file() for at in ("reconciler", "."))]
    assert missing == []
    assert NAMED.findall(told)
    assert re.sub(r"`[^`]*`|[, ]", "", told) == ""


def test_every_test_that_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) == PAGE.count("::")
    gone = [f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in written(path)]
    assert gone == []


def test_what_is_open_in_a_row_is_listed_at_the_end() -> None:
    listed = set(re.findall(r"[FL]\d+", PAGE.partition("\n## Open\n")[2]))
    marked = {number for number, cells in ROWS.items() if "**open**" in cells[1]}
    assert marked == listed
