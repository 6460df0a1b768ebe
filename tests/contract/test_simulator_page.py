"""docs/SIMULATOR.md lists every option, path and fault of the simulator, and its examples run."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import typer.main

from reconciler.cli import application
from reconciler.simulator import Simulator
from reconciler.simulator.api.api import Api
from reconciler.simulator.api.responses import Responses
from reconciler.simulator.faults import FAULTS
from reconciler.simulator.records.dialects import DIALECTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "SIMULATOR.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> dict[str, tuple[str, ...]]:
    """Return the words in code of each row of a section's table, by those of its first cell."""
    found = {}
    for line in section(title).splitlines():
        if line.startswith("| ") and not line.startswith(("| option", "| dialect", "| stage")):
            first, _, rest = line.strip("| ").partition(" | ")
            found[first.strip("`")] = tuple(re.findall(r"`([^`]+)`", rest))
    return found


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)


def test_every_option_of_the_command_is_listed_and_no_other_is() -> None:
    command = typer.main.get_command(application()).commands["simulate"]  # type: ignore[attr-defined]
    options = {name for one in command.params for name in one.opts if name.startswith("--")}
    assert set(rows("Start it")) == options - {"--help"}


def test_every_dialect_is_listed_with_its_paths() -> None:
    assert rows("What it answers") == {family.name: (*family.creates, family.status) for family in DIALECTS.values()}


def test_every_other_path_is_listed() -> None:
    kie = Simulator()
    paths = {path for _, path in Api(kie, Responses(kie))._routes}
    assert paths == set(re.findall(r"`(?:GET |POST )?(/api/[\w/-]+)`", section("What it answers")))


def test_every_fault_is_listed_and_no_other_is() -> None:
    told = {stage: set(words) for stage, words in rows("Faults").items()}
    assert told == {stage: set(names) for stage, names in FAULTS.items()}


async def run(kie: Simulator, folder: Path, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**os.environ, "KIE": kie.url, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()
    return output.decode()


def told_keys() -> tuple[str, ...]:
    (started,) = blocks("Start it", "sh")
    return tuple(re.findall(r"--keys (\S+)", started)[0].split(","))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_the_examples_with_curl_run(tmp_path: Path) -> None:
    async with Simulator(keys=told_keys(), strict=True, media_size=1000) as kie:
        answers = [await run(kie, tmp_path, "bash", "-euc", block) for block in blocks("With curl", "sh")]
    codes = [re.findall(r'"code":(\d+)', answer)[-1] for answer in answers]
    assert codes == ["200", "200", "402", "200"]
    assert "picture.png" in answers[-1]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here")
async def test_the_node_client_waits_for_the_hole_to_fill(tmp_path: Path) -> None:
    (client,) = blocks("From a Node client", "js")
    (tmp_path / "client.mjs").write_text(client)
    async with Simulator(keys=told_keys(), strict=True, media_size=1000, speed=200) as kie:
        output = await run(kie, tmp_path, "node", "client.mjs")
        (task,) = kie.tasks.values()
        assert output.splitlines() == [f"{media.mime} 1000" for media in task.results]
        assert len(task.results) == 6


async def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = blocks("In a Python test", "python")
    (tmp_path / "example.py").write_text(example)
    async with Simulator() as kie:
        output = await run(kie, tmp_path, sys.executable, "example.py")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+ \['http://127[^']+\.png'\] [0-9a-f]{64}\n", output)


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(reconciler/[\w/.]+)`", PAGE)
    assert len(named) >= 2
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_leads_to_the_page() -> None:
    assert "docs/SIMULATOR.md" in (ROOT / "README.md").read_text()
