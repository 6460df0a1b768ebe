"""Hostile requests: each is answered as a problem, and none reaches KIE or causes a server error."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from reconciler.simulator import Simulator
from tests.http.api import ServedApi, opened

CALLBACK = "/api/kie/callback?secret=sesame-open"
ROUTES = (CALLBACK, "/api/kie/createTask", "/api/kie/downloadUrl")
DEPTHS = (100, 500, 900, 980, 1_100, 10_000)


@pytest.fixture
async def api(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[ServedApi]:
    async with opened(rows_dsn, kie, tmp_path, KIE_CALLBACK_SECRET="sesame-open") as api:
        yield api


def nested(depth: int, template: str) -> bytes:
    return (template.replace("HERE", "[" * depth + "]" * depth)).encode()


TEMPLATES = {
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


async def post(api: ServedApi, route: str, body: bytes) -> httpx.Response:
    return await api.operator.post(route, content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("route", ROUTES)
async def test_json_of_any_depth_causes_no_server_error(api: ServedApi, kie: Simulator, route: str) -> None:
    for what, template in TEMPLATES.items():
        for depth in DEPTHS:
            answer = await post(api, route, nested(depth, template))
            assert answer.status_code < 500, (what, depth, answer.text)
            if depth == DEPTHS[-1]:
                assert (answer.status_code, "error" in answer.json()) == (400, True), (what, answer.text)
    assert kie.counts.creates <= len(DEPTHS) - 1


@pytest.mark.parametrize("route", ROUTES)
async def test_odd_json_is_refused_with_a_problem(api: ServedApi, kie: Simulator, route: str) -> None:
    for what, body in ODD.items():
        answer = await post(api, route, body)
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


async def test_ids_that_cannot_exist_match_no_row(api: ServedApi) -> None:
    for name in NAMES:
        quoted = quote(name, safe="", errors="surrogatepass")
        for path in (
            f"/api/generations/{quoted}",
            f"/api/kie/sync?taskId={quoted}",
            f"/api/generations?cursor={quoted}",
        ):
            answer = await api.operator.get(path)
            assert answer.status_code in (200, 400, 404), (path, answer.text)
            assert "x" * 4000 not in answer.text
        listed = await api.operator.get(f"/api/generations?userId={quoted}&status={quoted}")
        assert listed.status_code in (200, 400), (quoted, listed.text)
        answer = await post(api, "/api/kie/downloadUrl", json.dumps({"generationId": name}).encode())
        assert answer.status_code in (400, 404), (name, answer.text)


async def test_a_callback_may_name_any_generation_and_only_valid_ids_are_used(api: ServedApi) -> None:
    for name in NAMES:
        body = json.dumps({"code": 200, "data": {"taskId": "t", "state": "success"}}).encode()
        quoted = quote(name, safe="", errors="surrogatepass")
        answer = await post(api, f"{CALLBACK}&generation={quoted}", body)
        assert answer.status_code in (202, 400), (name, answer.text)
