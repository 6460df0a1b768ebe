"""The promised routes exist, no other does, and each is described or is a page."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from reconciler import settings
from reconciler.bootstrap.http import routers
from reconciler.health import Health
from reconciler.http.app import application
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "reconciler" / "http" / "page"

DESCRIBED = {
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("POST", "/api/kie/callback"),
    ("GET", "/api/kie/sync"),
    ("POST", "/api/kie/createTask"),
    ("POST", "/api/kie/downloadUrl"),
    ("GET", "/api/generations"),
    ("GET", "/api/generations/{id}"),
    ("GET", "/api/status"),
    ("GET", "/api/events"),
    ("GET", "/files/{key}"),
}
TOKENLESS = {"/metrics", "/healthz", "/readyz", "/files/{key}", "/api/kie/callback"}


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    known = settings.load({"RECONCILER_API_TOKEN": "operators-token"}, tmp_path)
    entrance, metrics = ReadinessGate(Health(45.0)), Metrics()
    return application(entrance.health, metrics, tmp_path, routers=routers(known, entrance, metrics))


def operations(app: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, described in app.openapi()["paths"].items():
        for method, operation in described.items():
            yield method.upper(), path, operation


def test_every_promised_route_is_described_and_no_other(app: FastAPI) -> None:
    assert {(method, path) for method, path, _ in operations(app)} == DESCRIBED


def test_what_is_not_described_is_a_page_or_a_file_of_one(app: FastAPI) -> None:
    known = {path for _, path in DESCRIBED} | {"/files/{key:path}", "/openapi.json", "/docs", "/"}
    files = {f"{folder}/{path.name}" for path in PAGES.iterdir() for folder in ("", "/page")}
    assert {route.path for route in iter_route_contexts(app.routes)} - known <= files


def test_every_route_says_who_may_what_it_does_and_where_it_belongs(app: FastAPI) -> None:
    named = {tag["name"] for tag in app.openapi()["tags"]}
    for method, path, operation in operations(app):
        place = f"{method} {path}"
        assert operation["summary"], place
        assert set(operation["tags"]) <= named, place
        assert all(one["description"] for one in operation["responses"].values()), place
        assert ("security" not in operation) == (path in TOKENLESS), place
        assert operation.get("security") in (None, [{"operator": []}, {"user": []}]), place


def test_every_error_of_the_api_is_a_problem(app: FastAPI) -> None:
    for method, path, operation in operations(app):
        if path.startswith("/api/"):
            errors = {status: one for status, one in operation["responses"].items() if status >= "400"}
            assert {"400", "401", "413", "500", "503"} <= errors.keys(), path
            assert {kind for one in errors.values() for kind in one["content"]} == {"application/problem+json"}, (
                f"{method} {path}"
            )


def test_the_pages_load_nothing_from_elsewhere() -> None:
    for path in PAGES.iterdir():
        found = re.findall(r"""(?:src|href|url|import|from|fetch)\s*[=(\s]\s*["']?(https?:)?//""", path.read_text())
        assert not found, path.name


def test_the_pages_are_in_the_package(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder  # noqa: PLC0415 - takes a while and is needed here only

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        packed = {name.rpartition("/")[2] for name in wheel.namelist() if name.startswith("reconciler/http/page/")}
    assert packed == {path.name for path in PAGES.iterdir()}
