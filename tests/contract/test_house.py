"""The house rules that no linter holds: sizes, docstrings, borders, words, and tests that wait."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "reconciler").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

# Around a visit (by the daemon, by a backfill), a round, a request.
BORDERS = tuple(f"reconciler/{file}.py" for file in ("engine/work", "doors/chores", "engine/rounds", "doors/web"))
FORBIDDEN = {"job", "manager", "handler", "processor", "service", "util", "helper", "common"}
FORBIDDEN |= {"data", "info"} | {f"{word}s" for word in FORBIDDEN}
THEIRS = re.compile(r"service_role")  # a name that others gave

Function = ast.FunctionDef | ast.AsyncFunctionDef
LOGGING = ("debug", "info", "warning", "error", "exception", "critical")


@functools.cache
def walked(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def nodes(files: list[Path]) -> Iterator[tuple[str, ast.AST]]:
    for path in files:
        place = str(path.relative_to(ROOT))
        for node in walked(path):
            yield f"{place}:{getattr(node, 'lineno', 1)}", node


def none(found: Iterable[str]) -> None:
    listed = list(found)
    assert not listed, "\n".join(listed)


def test_no_file_is_longer_than_300_lines_and_no_file_of_tests_than_400() -> None:
    lengths = {path: path.read_text().count("\n") for path in PACKAGE + TESTS + BENCHMARKS}
    limits = {path: 400 if path in TESTS else 300 for path in lengths}
    none(f"{path.relative_to(ROOT)} {lines}" for path, lines in lengths.items() if lines > limits[path])


def test_no_banner_divides_a_file() -> None:
    banner = re.compile(r"\s*# ?-{2,}")
    lines = ((path, line) for path in PACKAGE + TESTS + BENCHMARKS for line in path.read_text().splitlines())
    none(f"{path.relative_to(ROOT)} {line}" for path, line in lines if banner.match(line))


def test_no_function_is_longer_than_50_lines() -> None:
    none(
        f"{place} {node.name}"
        for place, node in nodes(PACKAGE + TESTS + BENCHMARKS)
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno >= 50
    )


def test_every_module_says_what_lives_in_it() -> None:
    modules = ((at, node) for at, node in nodes(PACKAGE + TESTS) if isinstance(node, ast.Module))
    none(place for place, node in modules if node.body and not ast.get_docstring(node))


def test_everything_is_caught_only_around_a_visit_a_round_and_a_request() -> None:
    def broad(node: ast.ExceptHandler) -> bool:
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {ast.unparse(kind) if kind else "Exception" for kind in kinds}
        return bool(names & {"Exception", "BaseException"})

    catches = ((at, node) for at, node in nodes(PACKAGE) if isinstance(node, ast.ExceptHandler))
    none(at for at, node in catches if broad(node) and at.partition(":")[0] not in BORDERS)


def test_no_test_sleeps() -> None:
    none(
        place
        for place, node in nodes(TESTS)
        if "sleep" in (getattr(node, "attr", ""), getattr(node, "id", ""))
        or (isinstance(node, ast.alias) and node.name == "sleep")
    )


def test_no_name_uses_a_word_that_says_nothing() -> None:
    def named(node: ast.AST) -> str:
        if isinstance(node, Function | ast.ClassDef):
            return node.name
        if isinstance(node, ast.arg):
            return node.arg
        return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else ""

    def parts(name: str) -> set[str]:
        return set(re.findall(r"[a-z]+", THEIRS.sub("", re.sub(r"([A-Z])", r"_\1", name)).lower()))

    files = [(str(path.relative_to(ROOT)), path.stem) for path in PACKAGE]
    names = files + [(place, named(node)) for place, node in nodes(PACKAGE)]
    none(f"{place} {name}" for place, name in names if parts(name) & FORBIDDEN)


def test_events_in_the_log_are_called_noun_dot_verb() -> None:
    calls = ((place, node) for place, node in nodes(PACKAGE) if isinstance(node, ast.Call))
    none(
        f"{place} {ast.unparse(node.args[0])}"
        for place, node in calls
        if isinstance(node.func, ast.Attribute) and node.func.attr in LOGGING
        if node.args and isinstance(node.args[0], ast.Constant)
        if not re.fullmatch(r"[a-z_]+\.[a-z_]+", str(node.args[0].value))
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_help_lists_every_target_that_says_what_it_is_for() -> None:
    told = re.findall(r"^(\S+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\S+)", helped, re.MULTILINE) == told
