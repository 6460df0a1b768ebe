"""The event loop keeps turning, whatever is sent to it and however long the answers are: never 50 ms in one piece."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.kie.dialects.parsing import MAX_VALUES
from reconciler.simulator import Simulator
from testkit.loop_watch import assert_loop_turns
from testkit.rows import add
from tests.http.api import ANN, OPERATOR, ServedApi, opened, token

MIB = 1 << 20
CALLBACK = "/api/kie/callback?secret=sesame-open"
CREATE = "/api/kie/createTask"
LINK = "/api/kie/downloadUrl"


@pytest.fixture
async def api(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[ServedApi]:
    async with opened(rows_dsn, kie, tmp_path, KIE_CALLBACK_SECRET="sesame-open") as api:
        yield api


def port_of(api: ServedApi) -> int:
    port = api.operator.base_url.port
    assert port is not None
    return port


async def send(api: ServedApi, path: str, body: bytes = b"", bearer: str = OPERATOR) -> tuple[int, bytes]:
    """Send one request over a plain socket, which costs this process little; return status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(api), limit=64 * MIB)
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nAuthorization: Bearer {bearer}\r\n"
    try:
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        start = await reader.readuntil(b"\r\n\r\n")
        return int(start.split()[1]), await reader.read()
    finally:
        writer.close()


def repeated(piece: bytes, count: int) -> bytes:
    return b"[" + b",".join([piece] * count) + b"]"


def unknown_keys(count: int) -> bytes:
    return b"{" + b",".join(b'"%06d":0' % n for n in range(count)) + b"}"


FULL = MAX_VALUES - 100
HOSTILE = {
    "105,000 unknown keys": unknown_keys(90_000),
    "as many unknown keys as are read": unknown_keys(FULL),
    "one key for each value": b'{"a":' + unknown_keys(FULL - 10) + b"}",
    "empty lists": repeated(b"[]", MIB // 3 - 10),
    "objects": b'{"a":' + repeated(b'{"":0}', FULL // 2 - 10) + b"}",
    "floats": b'{"a":' + repeated(b"0.1234567890123456", FULL) + b"}",
    "deep lists": b'{"a":' + repeated(b"[" * 900 + b"]" * 900, 30) + b"}",
    "long integers": b'{"a":' + repeated(b"9" * 4000, 250) + b"}",
    "half characters": b'{"a":"' + b"\\ud800" * 170_000 + b'"}',
    "NUL characters": b'{"a":"' + b"\\u0000" * 170_000 + b'"}',
    "a long key": b'{"' + b"k" * (MIB - 20) + b'":0}',
}


def around(body: bytes) -> dict[str, bytes]:
    """Return the hostile JSON by the route that it is sent to, as a whole and in a place that the route reads."""
    return {
        "alone": body,
        "in an order": b'{"model":"nano-banana-2","kind":"image","input":{"x":' + body + b"}}",
        "in a callback": b'{"code":200,"data":{"taskId":"t","state":"success","resultJson":' + body + b"}}",
    }


@pytest.mark.sample(1)
@pytest.mark.parametrize("what", HOSTILE)
async def test_n7_the_loop_turns_while_a_hostile_body_is_refused(api: ServedApi, what: str) -> None:
    """One body with 105,000 unknown keys, and its kin."""
    for path, where in ((CREATE, "alone"), (CREATE, "in an order"), (CALLBACK, "in a callback"), (LINK, "alone")):
        body = around(HOSTILE[what])[where]

        async def refused(path: str = path, body: bytes = body) -> None:
            status, answer = await send(api, path, body)
            assert status < 500 or path == CALLBACK, answer
            assert len(answer) < 3000

        await assert_loop_turns(refused, f"{what} {where}")


async def test_n7_a_body_with_many_unknown_fields_is_refused_without_their_names(api: ServedApi) -> None:
    status, answer = await send(api, CREATE, unknown_keys(5000))
    problem = json.loads(answer)
    assert (status, problem["error"]) == (400, "invalid_request")
    assert "more than 50 fields are unknown" in problem["detail"]
    status, answer = await send(api, CREATE, unknown_keys(50))
    assert (status, len(json.loads(answer)["detail"]) < 1000, b"and 48 more" in answer) == (400, True, True)


async def test_n7_the_loop_turns_while_a_page_of_long_lists_is_written(pool: Any, api: ServedApi) -> None:
    addresses = json.dumps([f"https://tempfile.aiquickdraw.com/{n}/{'x' * 2500}.png" for n in range(50)])
    for _ in range(100):
        await add(pool, "success", timedelta(hours=1), user_id=ANN, result_urls=addresses, asset_urls=addresses)
    seen: list[Any] = []

    async def read() -> None:
        status, answer = await send(api, "/api/generations?limit=100", bearer=token(ANN))
        assert status == 200
        seen[:] = [answer]

    await assert_loop_turns(read, "a page of 100 long rows")
    page = json.loads(seen[0])
    assert 0 < len(page["generations"]) < 100
    ids = [one["id"] for one in page["generations"]]
    while page["nextCursor"]:
        _, answer = await send(api, f"/api/generations?limit=100&cursor={page['nextCursor']}", bearer=token(ANN))
        page = json.loads(answer)
        ids += [one["id"] for one in page["generations"]]
    assert len(set(ids)) == len(ids) == 100


async def test_n7_the_loop_turns_while_a_callback_with_a_thousand_results_is_kept(api: ServedApi) -> None:
    addresses = [f"https://tempfile.aiquickdraw.com/{n}/{'x' * 500}.png" for n in range(1000)]
    record = {"taskId": "t", "state": "success", "resultJson": json.dumps({"resultUrls": addresses})}
    numbers = iter(range(100))

    async def keep() -> None:
        body = json.dumps({"code": 200, "n": next(numbers), "data": record}).encode()
        assert (await send(api, CALLBACK, body))[0] == 202

    await assert_loop_turns(keep, "a callback with a thousand results")
