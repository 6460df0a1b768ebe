"""docs/RELIABILITY.md has a row for every fault, and every test that it names exists."""

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
ALONE = PAGE.partition("\n### Each fault alone\n")[2].partition("\n### ")[0]
FIGURES = {
    name: cells.split(" | ") for name, cells in re.findall(r"^\| ([A-Za-z -]+) \| (\d.*) \|$", ALONE, re.MULTILINE)
}
"""By fault: times, median and worst of its recoveries, the longest wait, how many were met, lost and doubled."""


@cache
def written_in(path: str) -> dict[str, bool]:
    """The tests of one file, functions and methods, each with whether all of it is a soak."""
    text = (ROOT / path).read_text()
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    whole = re.search(r"^pytestmark = (\[[^]]*)?pytest\.mark\.soak", text, re.MULTILINE) is not None
    return {
        node.name: whole or "pytest.mark.soak" in map(ast.unparse, node.decorator_list)
        for node in functions
        if node.name.startswith("test_")
    }


def storm_faults() -> set[str]:
    """The names of the storm's faults, read from the source because tests import no benchmark."""
    tree = ast.parse((ROOT / "benchmarks" / "chaos" / "faults.py").read_text())
    (faults,) = (node for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "FAULTS")
    (by_name,) = (node for node in ast.walk(faults) if isinstance(node, ast.Dict))
    return {ast.literal_eval(name) for name in by_name.keys if name is not None}


def test_every_fault_has_one_row_and_nothing_else_has() -> None:
    assert [number for number, _ in ROW.findall(PAGE)] == FAULTS + LOSSES


@pytest.mark.parametrize("number", FAULTS + LOSSES)
def test_a_row_tells_the_fault_the_defence_with_its_file_and_tests(number: str) -> None:
    fault, defence, told, *_ = ROWS[number]
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
    gone = [f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in written_in(path)]
    assert gone == []


@pytest.mark.parametrize("number", FAULTS + LOSSES)
def test_a_row_names_a_test_that_is_no_soak(number: str) -> None:
    _, _, told, *_ = ROWS[number]
    assert [name for path, name in NAMED.findall(told) if not written_in(path)[name]]


def test_what_is_open_in_a_row_is_listed_at_the_end() -> None:
    listed = set(re.findall(r"[FL]\d+", PAGE.partition("\n## Open\n")[2]))
    marked = {number for number, cells in ROWS.items() if "**open**" in cells[1]}
    assert marked == listed


def test_every_fault_of_the_storm_was_measured_alone_five_times_and_lost_and_doubled_nothing() -> None:
    assert set(FIGURES) == storm_faults()
    for name, (times, _, worst, _, met, lost, doubled) in FIGURES.items():
        assert (int(times) >= 5, float(worst) < 60, int(met) > 0, lost, doubled) == (True, True, True, "0", "0"), name


@pytest.mark.parametrize("number", FAULTS)
def test_a_row_tells_how_long_recovery_took_as_it_was_measured_or_that_nothing_ends(number: str) -> None:
    *_, told = ROWS[number]
    if told != "nothing to recover from":
        for name, figures in (part.split(": ") for part in told.split("; ")):
            assert figures == " / ".join(FIGURES[name][1:3])
