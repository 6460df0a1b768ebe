"""The pages for readers of the code name files, statuses and libraries that are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from reconciler.domain.model import OPEN, SUCCEEDED

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "reconciler"
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
DIAGRAMS = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
FILE = re.compile(r"(?<![\w./-])((?:[a-z_]+/)*[a-z_]+\.py)\b")
FOLDER = re.compile(r"`((?:[a-z_]+/)+)`")


def section(title: str) -> str:
    """The text under a heading of the second level."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", sorted({*FILE.findall(PAGE), *FOLDER.findall(section("Layers"))}))
def test_every_file_and_folder_that_the_page_names_is_there(name: str) -> None:
    # A layer's row names its own subfolders without the layer before them.
    places = [ROOT / name, PACKAGE / name, *(PACKAGE.glob(f"*/{name}"))]
    assert any(place.exists() for place in places)


def test_there_are_three_diagrams() -> None:
    assert [diagram.split()[0] for diagram in DIAGRAMS] == ["flowchart", "stateDiagram-v2", "sequenceDiagram"]


def test_every_participant_of_the_sequence_is_a_file_of_the_package() -> None:
    participants = re.findall(r"participant \w+ as (\S+)", DIAGRAMS[2])

    assert len(participants) > 5
    assert not [name for name in participants if not (PACKAGE / name).is_file()]


def test_the_states_of_the_diagram_are_the_statuses_that_the_daemon_knows() -> None:
    drawn: set[str] = set()
    for left, right in re.findall(r"^\s*(\S+) --> (\w+):", DIAGRAMS[1], re.MULTILINE):
        drawn |= {left, right}

    older = {"pending", "processing", "completed"}
    assert drawn - {"[*]"} == {*OPEN, *SUCCEEDED, "failed", "cancelled"} - older


def test_every_layer_of_the_linter_has_a_row_and_no_other_has() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    layers = {name.strip() for line in linter for name in line.split("|")} - {"__main__"}
    rows = [line.split("|")[1] for line in section("Layers").splitlines() if line.startswith("| `")]
    named = {name.removesuffix("/").removesuffix(".py") for row in rows for name in re.findall(r"`([^`]+)`", row)}

    assert named == layers


def test_every_library_that_runs_is_told_with_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    told = section("Libraries").lower()

    assert not [name for name in wanted if name not in told]


def test_the_page_fits_in_two_hundred_lines() -> None:
    assert PAGE.count("\n") <= 200
