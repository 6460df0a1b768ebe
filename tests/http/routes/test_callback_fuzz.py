"""Thousands of malformed callbacks: every one is answered as the contract says, and none causes an error."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from starlette.types import Message

from reconciler.domain.object_keys import CALLBACK_PATH
from tests.http.callback_client import SECRET, Stage, market, opened_stage

AT_ONCE = 16

SECRET_QUOTED = b"".join(b"%%%02x" % letter for letter in SECRET.encode())
KEYS = [
    "taskId",
    "task_id",
    "data",
    "code",
    "msg",
    "state",
    "callbackType",
    "info",
    "resultUrls",
    "resultJson",
    "\0",
    "",
]
SCALARS = [
    None, True, 0, -1, 200, 501, "200", 10**18, 10**400, 0.5, 1e308, "", " ", "x", "task", "\0", "\ud800\udfff",
    "💾", "\\u0000", "[" * 3000, "{\"a\":", "https://a.example/x", "http://[", "x" * 400, "success", "complete", "fail",
]  # fmt: skip
RAW = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e400",
    b"-1e999999",
    b"9" * 5000,
    b"1" + b"0" * 400,
    b'"\\ud83d"',
    b"\xff",
    b"[]]",
]


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return any JSON value, often with the keys that we read."""
    if depth > 4 or rng.random() < 0.5:
        return rng.choice(SCALARS)
    if rng.random() < 0.3:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): value(rng, depth + 1) for _ in range(rng.randrange(5))}


def spoiled(rng: random.Random, body: bytes) -> bytes:
    """Return the body with a byte changed, a part repeated or cut off, or a value that is almost JSON."""
    at = rng.randrange(len(body) + 1)
    match rng.randrange(4):
        case 0:
            return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
        case 1:
            return body[:at]
        case 2:
            return body[:at] + body[at // 2 :]
        case _:
            return body.replace(b"200", rng.choice(RAW), 1)


def body(rng: random.Random) -> bytes:
    match rng.randrange(10):
        case 0:
            return rng.randbytes(rng.randrange(200))
        case 1:
            deep = rng.choice([100, 900, 1000, 3000, 30_000])
            return b'{"taskId":"deep","x":' + rng.choice([b"[", b'{"a":']) * deep
        case 2:
            deep = rng.choice([100, 600, 900, 950, 990, 2000])
            return b'{"taskId":"deep","x":' + b"[" * deep + b"]" * deep + b"}"
        case 3 | 4:
            return json.dumps(value(rng)).encode()
        case 5 | 6:
            whole = market(f"fuzz-{rng.randrange(50)}")
            rng.choice([whole, whole["data"]])[rng.choice(KEYS)] = value(rng)
            return json.dumps(whole).encode()
        case _:
            return spoiled(rng, json.dumps(market(f"fuzz-{rng.randrange(50)}", other=value(rng))).encode())


def query(rng: random.Random, known: str) -> bytes:
    generation = rng.choice([b"", b"", b"&generation=" + known.encode(), b"&generation=%00", b"&generation=%ff&x=\xff"])
    return (
        b"secret=" + SECRET_QUOTED + generation + rng.choice([b"", b"", b"&&=", b"&secret=again", b"&generation=two"])
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(_worn: str) -> AsyncIterator[Stage]:
    async with opened_stage(_worn) as opened:
        yield opened


async def post(app: Any, target: bytes, content: bytes) -> int:
    """Post over ASGI, which accepts requests that no client would send; return the status."""
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-length", str(len(content)).encode()), (b"host", b"here")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": CALLBACK_PATH, "raw_path": CALLBACK_PATH.encode(), "query_string": target, "headers": headers,
        "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    await app(scope, receive, send)
    (status,) = statuses
    return status


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [2500, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_thousands_of_malformed_callbacks_cause_no_error(stage: Stage, count: int) -> None:
    rng = random.Random(20_260_401)
    # The stage is the module's: a row of an earlier run would have the same task.
    await stage.books.pool.execute("DELETE FROM public.generations")
    earlier = set(stage.replica.woken())
    known, waiting = await stage.books.insert(task_id="fuzz-1"), await stage.books.insert(task_id=None)
    calls = iter([(query(rng, waiting), body(rng)) for _ in range(count)])
    statuses: Counter[int] = Counter()

    async def caller() -> None:
        for target, content in calls:
            status = await post(stage.replica.app, target, content)
            assert status in {200, 202, 400, 401}, (status, target, content[:300])
            statuses[status] += 1

    before = await stage.versions()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    assert statuses.total() == count
    assert min(statuses[200], statuses[202], statuses[400], statuses[401]) > count / 100, statuses
    assert await stage.versions() == before
    assert set(stage.replica.woken()) - earlier == {known, waiting}
