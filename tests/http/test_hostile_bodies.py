"""Requests that no client makes by mistake: each is answered as a problem, none reaches KIE or breaks a route."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from reconciler.simulator import Simulator
from tests.http.api import Face, opened

CALLBACK = "/api/kie/callback?secret=sesame-open"
ROUTES = (CALLBACK, "/api/kie/createTask", "/api/kie/downloadUrl")
DEPTHS = (100, 500, 900, 980, 1_100, 10_000)


@pytest.fixture
async def face(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[Face]:
    async with opened(rows_dsn, kie, tmp_path, KIE_CALLBACK_SECRET="sesame-open") as face:
        yield face


def nested(depth: int, around: str) -> bytes:
    return (around.replace("HERE", "[" * depth + "]" * depth)).encode()


AROUND = {
    "alone": "HERE",
    "in an order": '{"model": "m", "kind": "image", "prompt": "p", "input": {"a": HERE}}',
    "in a callback": '{"code": 200, "data": {"taskId": "t", "a": HERE}}',
    "in a link": '{"generationId": "g", "url": HERE}',
}
ODD = {
    "nothing": b"",
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "half a character": b'{"data": {"taskId": "\\ud800"}, "generationId": "\\ud800"}',
    "NUL": b'{"data": {"taskId": "a\\u0000b"}, "generationId": "a\\u0000b"}',
    "a NUL byte": b'{"data": {"taskId": "a\x00b"}}',
    "a number without end": b'{"generationId": ' + b"9" * 100_000 + b"}",
    "a number too large": b'{"generationId": 1e999, "data": 1e999}',
    "no number": b'{"generationId": NaN, "data": {"taskId": Infinity}}',
    "one name a thousand times": b"{" + b",".join([b'"data": {}'] * 1000) + b"}",
    "a comment": b"/* */ {}",
}


async def posted(face: Face, route: str, body: bytes) -> httpx.Response:
    return await face.operator.post(route, content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("route", ROUTES)
async def test_json_of_any_depth_breaks_no_route(face: Face, kie: Simulator, route: str) -> None:
    for what, around in AROUND.items():
        for depth in DEPTHS:
            answer = await posted(face, route, nested(depth, around))
            assert answer.status_code < 500, (what, depth, answer.text)
            if depth == DEPTHS[-1]:
                assert (answer.status_code, "error" in answer.json()) == (400, True), (what, answer.text)
    assert kie.counts.creates <= len(DEPTHS) - 1


@pytest.mark.parametrize("route", ROUTES)
async def test_odd_json_is_refused_with_a_problem(face: Face, kie: Simulator, route: str) -> None:
    for what, body in ODD.items():
        answer = await posted(face, route, body)
        assert 400 <= answer.status_code < 500, (what, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", what
    assert kie.counts.creates == 0


NAMES = [
    "\0",
    "a\0b",
    "..",
    "../../etc/passwd",
    "\ud800",
    "' OR 1=1 --",
    "%",
    "x" * 5000,
    "\r\nX: y",
    "\u202e",
    "-1",
    "{}",
]


async def test_names_that_are_no_ids_are_nobodys(face: Face) -> None:
    for name in NAMES:
        said = quote(name, safe="", errors="surrogatepass")
        for path in (f"/api/generations/{said}", f"/api/kie/sync?taskId={said}", f"/api/generations?cursor={said}"):
            answer = await face.operator.get(path)
            assert answer.status_code in (200, 400, 404), (path, answer.text)
            assert "x" * 4000 not in answer.text
        listed = await face.operator.get(f"/api/generations?userId={said}&status={said}")
        assert listed.status_code in (200, 400), (said, listed.text)
        answer = await posted(face, "/api/kie/downloadUrl", json.dumps({"generationId": name}).encode())
        assert answer.status_code in (400, 404), (name, answer.text)


async def test_a_callback_may_name_any_generation_and_only_ids_are_believed(face: Face) -> None:
    for name in NAMES:
        body = json.dumps({"code": 200, "data": {"taskId": "t", "state": "success"}}).encode()
        said = quote(name, safe="", errors="surrogatepass")
        answer = await posted(face, f"{CALLBACK}&generation={said}", body)
        assert answer.status_code in (202, 400), (name, answer.text)
