"""Every test that SECURITY.md names exists, and dependencies are pinned as it says."""

from __future__ import annotations

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def defined_in(path: str) -> set[str]:
    """The tests of a file; none where it is not there."""
    file = ROOT / path
    if not file.exists():
        return set()
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 60
    known = {path: defined_in(path) for path, _ in NAMED}
    assert [f"{path}::{name}" for path, name in NAMED if name not in known[path]] == []
    assert {name for _, name in NAMED if not name.startswith("test_")} == set()


def test_every_line_of_a_table_is_held_by_a_test() -> None:
    lines = re.findall(r"^\| .* \|$", PAGE, re.MULTILINE)
    cells = [line.removesuffix(" |").rpartition(" | ")[2] for line in lines]
    held = [cell for cell in cells if cell != "held by"]
    assert len(held) > 30
    test = r"`tests/[\w/]+\.py::test_\w+`"
    assert [cell for cell in held if not re.fullmatch(f"{test}(, {test})*", cell)] == []


@pytest.mark.parametrize("file", ["run.txt", "dev.txt", "audit.txt"])
def test_every_distribution_is_pinned_with_its_hashes_and_no_index_is_named(file: str) -> None:
    text = (ROOT / "requirements" / file).read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if entry.strip() and not entry.startswith("#")]
    assert len(entries) > 40
    assert [entry for entry in entries if not re.match(r"[\w.\[\]-]+==\S+ ", entry)] == []
    assert [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []
    assert not re.search(r"://|--(?:extra-)?index|--find-links|--trusted-host", text)


def test_whoever_is_asked_for_with_extras_is_pinned_with_them() -> None:
    """Else pip takes the newest release for the extras, not the pinned one, and then refuses it."""
    lines = re.findall(r"^\w[^\\]*", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    pins = {pin.name: pin for pin in map(Requirement, lines)}
    asked = {
        (wanted.name.lower(), extra)
        for name, pin in pins.items()
        if not pin.marker or pin.marker.evaluate()
        for line in metadata.requires(name) or []
        if (wanted := Requirement(line)).name.lower() in pins
        and any(not wanted.marker or wanted.marker.evaluate({"extra": own}) for own in (*pin.extras, ""))
        for extra in wanted.extras
    }
    assert ("coverage", "toml") in asked
    assert {one for one in asked if one[1] not in pins[one[0]].extras} == set()


def test_the_targets_and_the_rules_that_the_page_names_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", PAGE)) <= targets
    assert re.search(r'^\s*select = \[[^\]]*"S",', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
