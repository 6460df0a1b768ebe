"""What can be checked in the Dockerfile without building the image; `make image-test` builds and runs it."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|DATABASE_URL")


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile with what follows it, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    split = (line.partition(" ") for line in text.splitlines() if line.strip())
    return [(word, " ".join(rest.split())) for word, _, rest in split]


def image() -> dict[str, str]:
    """The last of each kind of instruction in the last stage, the one that becomes the image."""
    found = instructions()
    start = max(n for n, (word, _) in enumerate(found) if word == "FROM")
    return dict(found[start:])


def copied() -> list[str]:
    """What is copied from the repository."""
    sources = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from=" not in rest]
    return [one for several in sources for one in several]


def ignored(path: str) -> bool:
    """What .dockerignore says of a path: the last line that fits it, or a folder over it, decides."""
    verdict = False
    names = [f"/{one}" for one in (path, *map(str, Path(path).parents))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        anywhere = f"*/{pattern}" if "**/" in line else f"/{pattern}"
        if line and not line.startswith("#") and any(fnmatch(name, anywhere) for name in names):
            verdict = not line.startswith("!")
    return verdict


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if "==" in line)


def test_it_runs_as_a_number_that_is_not_root() -> None:
    user, _, group = image()["USER"].partition(":")
    assert int(user) >= 10000
    assert int(group) >= 10000


@pytest.mark.parametrize("word", ["ENTRYPOINT", "CMD", "HEALTHCHECK"])
def test_no_shell_stands_between_a_signal_and_the_daemon(word: str) -> None:
    command = json.loads(image()[word].rpartition("CMD ")[2])
    assert command
    assert all(isinstance(part, str) for part in command)
    assert command[0] not in ("sh", "bash", "/bin/sh")


def test_the_health_check_is_python_that_compiles_and_asks_for_life_only() -> None:
    *program, code = json.loads(image()["HEALTHCHECK"].rpartition("CMD ")[2])
    assert program == ["python", "-c"]
    compile(code, "healthcheck", "exec")
    assert "/healthz" in code


def test_it_is_stopped_by_the_signal_that_drains() -> None:
    assert image()["STOPSIGNAL"] == "SIGTERM"


def test_it_is_built_in_one_stage_and_runs_in_another_on_a_base_that_can_be_pinned() -> None:
    found = [rest for word, rest in instructions() if word == "FROM"]
    assert found == ["${BASE} AS built", "${BASE}"]
    base = next(rest for word, rest in instructions() if word == "ARG")
    assert re.fullmatch(r"BASE=python:3\.1[1-3]-slim-\w+(@sha256:[0-9a-f]{64})?", base)


def test_nothing_is_fetched_but_what_is_pinned_by_its_hash() -> None:
    assert "ADD" not in dict(instructions())
    assert "://" not in (ROOT / "Dockerfile").read_text()
    installs = [
        step for word, rest in instructions() if word == "RUN" for step in rest.split("&&") if " install -" in step
    ]
    fetching = [step for step in installs if "pip" in step and "--no-index" not in step]
    assert len(fetching) == 2
    assert all("--require-hashes" in step and "--only-binary :all:" in step for step in fetching)


def test_no_secret_is_set_while_it_is_built() -> None:
    told = [rest for word, rest in instructions() if word in ("ENV", "ARG")]
    names = [one.partition("=")[0] for rest in told for one in rest.split()]
    assert len(names) > 8
    assert [name for name in names if SECRET.search(name)] == []


@pytest.mark.parametrize("path", copied())
def test_what_is_copied_is_there_and_not_ignored(path: str) -> None:
    assert (ROOT / path).exists()
    assert not ignored(path.removeprefix("./"))


def test_what_is_copied_reaches_the_build_whole_and_nothing_beside_it_does() -> None:
    wanted = {one.removeprefix("./") for one in copied()}
    files = [path for folder in ("reconciler", "sql") for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    kept = [str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts]
    assert len(kept) > 100
    assert [path for path in kept if ignored(path)] == []
    beside = {path.name for path in ROOT.iterdir()} | {f"requirements/{p.name}" for p in ROOT.glob("requirements/*")}
    assert {path for path in beside if not ignored(path)} == wanted


@pytest.mark.parametrize("path", [".env", "reconciler/.env.local", ".git/config", "reconciler/__pycache__/a.pyc"])
def test_what_must_not_reach_an_image_is_ignored(path: str) -> None:
    assert ignored(path)


def test_what_builds_is_the_backend_of_the_project_pinned_as_the_tests_have_it() -> None:
    backend = re.search(r'^requires = \["(\S+)==(\S+)"\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert backend is not None
    build, tested = pins("build.txt"), pins("dev.txt")
    assert build[backend[1]] == backend[2]
    assert {name: pin for name, pin in build.items() if tested.get(name, pin) != pin} == {}
