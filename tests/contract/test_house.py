"""The house rules that no linter checks: docstrings, borders, names with one meaning, and tests that never sleep."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "reconciler").rglob("*.py"))
TESTS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "testkit").rglob("*.py")])
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

BORDERS = (
    "reconciler/worker/worker.py",
    "reconciler/worker/periodic/scheduler.py",
    "reconciler/operations/backfill.py",
    "reconciler/http/app.py",
)
"""These modules may catch every exception: around a visit (also a backfill's), a periodic task, a request."""

MOST_MODULES = 14

GLOSSARY = ROOT / "docs" / "GLOSSARY.md"

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


def test_no_class_name_stands_twice_in_the_package() -> None:
    places = defaultdict(list)
    for place, node in nodes(PACKAGE):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            places[node.name].append(place)
    none(f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1)


def test_no_folder_has_more_modules_than_a_reader_can_look_over() -> None:
    folders = defaultdict(list)
    for path in PACKAGE:
        if path.name != "__init__.py":
            folders[path.parent].append(path)
    crowded = {folder for folder, modules in folders.items() if len(modules) > MOST_MODULES}
    # A folder may be larger where its charter says why.
    none(str(folder) for folder in crowded if "modules because" not in (folder / "__init__.py").read_text())


def test_every_folder_says_what_may_live_there() -> None:
    folders = {path.parent for path in PACKAGE}
    none(str(folder) for folder in folders if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text())))


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


def test_everything_is_caught_only_around_a_visit_a_periodic_task_and_a_request() -> None:
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


def test_tests_and_benchmarks_do_not_import_each_other() -> None:
    def imports(files: list[Path], package: str) -> Iterator[str]:
        for place, node in nodes(files):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
                yield f"{place} {node.module}"

    none([*imports(TESTS, "benchmarks"), *imports(BENCHMARKS, "tests")])


def test_events_in_the_log_are_called_noun_dot_verb() -> None:
    calls = ((place, node) for place, node in nodes(PACKAGE) if isinstance(node, ast.Call))
    none(
        f"{place} {ast.unparse(node.args[0])}"
        for place, node in calls
        if isinstance(node.func, ast.Attribute) and node.func.attr in LOGGING
        if node.args and isinstance(node.args[0], ast.Constant)
        if not re.fullmatch(r"[a-z_]+\.[a-z_]+", str(node.args[0].value))
    )


def rejected_words() -> dict[str, str]:
    """The words of the glossary's third column, each with the term that stands for it."""
    lines = [line.strip("| ").split(" | ") for line in GLOSSARY.read_text().splitlines() if line.startswith("| ")]
    return {word: term for term, _, words in lines[1:] for word in words.split(", ")}


def names(files: list[Path]) -> Iterator[tuple[str, str]]:
    """The names of folders, modules, classes, functions and parameters, each with where it stands."""
    for folder in {path.parent for path in files}:
        yield str(folder.relative_to(ROOT)), folder.name
    for path in files:
        yield str(path.relative_to(ROOT)), path.stem
    for place, node in nodes(files):
        if isinstance(node, ast.ClassDef | Function):
            yield place, node.name
        elif isinstance(node, ast.arg):
            yield place, node.arg


def words_of(name: str) -> str:
    """A name as its words in lower case, an underscore around each."""
    return f"_{'_'.join(re.findall('[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+', name)).lower()}_"


@pytest.mark.skipif(not GLOSSARY.is_file(), reason="there is no glossary")
def test_no_name_in_the_package_is_a_second_word_for_a_term_of_the_glossary() -> None:
    rejected = rejected_words()
    assert len(rejected) > 20
    none(
        f"{place} {name}: `{word}` is called `{term}` here"
        for place, name in names(PACKAGE)
        for word, term in rejected.items()
        if f"_{word}_" in words_of(name)
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_help_lists_every_target_that_says_what_it_is_for() -> None:
    told = re.findall(r"^(\S+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\S+)", helped, re.MULTILINE) == told
