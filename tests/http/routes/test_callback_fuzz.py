"""Thousands of callbacks that no client should send: every one is answered as the contract says, and none breaks."""

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


def value(dice: random.Random, depth: int = 0) -> Any:
    """Any JSON, often with the keys that we read."""
    if depth > 4 or dice.random() < 0.5:
        return dice.choice(SCALARS)
    if dice.random() < 0.3:
        return [value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {dice.choice(KEYS): value(dice, depth + 1) for _ in range(dice.randrange(5))}


def spoiled(dice: random.Random, body: bytes) -> bytes:
    """The same with a bit of it turned, doubled, dropped, or replaced by what JSON only nearly allows."""
    at = dice.randrange(len(body) + 1)
    match dice.randrange(4):
        case 0:
            return body[:at] + bytes([dice.randrange(256)]) + body[at + 1 :]
        case 1:
            return body[:at]
        case 2:
            return body[:at] + body[at // 2 :]
        case _:
            return body.replace(b"200", dice.choice(RAW), 1)


def body(dice: random.Random) -> bytes:
    match dice.randrange(10):
        case 0:
            return dice.randbytes(dice.randrange(200))
        case 1:
            deep = dice.choice([100, 900, 1000, 3000, 30_000])
            return b'{"taskId":"deep","x":' + dice.choice([b"[", b'{"a":']) * deep
        case 2:
            deep = dice.choice([100, 600, 900, 950, 990, 2000])
            return b'{"taskId":"deep","x":' + b"[" * deep + b"]" * deep + b"}"
        case 3 | 4:
            return json.dumps(value(dice)).encode()
        case 5 | 6:
            whole = market(f"fuzz-{dice.randrange(50)}")
            dice.choice([whole, whole["data"]])[dice.choice(KEYS)] = value(dice)
            return json.dumps(whole).encode()
        case _:
            return spoiled(dice, json.dumps(market(f"fuzz-{dice.randrange(50)}", other=value(dice))).encode())


def query(dice: random.Random, known: str) -> bytes:
    given = dice.choice([b"", b"", b"&generation=" + known.encode(), b"&generation=%00", b"&generation=%ff&x=\xff"])
    return b"secret=" + SECRET_QUOTED + given + dice.choice([b"", b"", b"&&=", b"&secret=again", b"&generation=two"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(_worn: str) -> AsyncIterator[Stage]:
    async with opened_stage(_worn) as found:
        yield found


async def asked(app: Any, target: bytes, sent: bytes) -> int:
    """Post over ASGI, which takes what no client would send; the status."""
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": sent, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-length", str(len(sent)).encode()), (b"host", b"here")]
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
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_thousands_of_strange_callbacks_break_nothing(stage: Stage, count: int) -> None:
    dice = random.Random(20_260_401)
    known, waiting = await stage.books.insert(task_id="fuzz-1"), await stage.books.insert(task_id=None)
    calls = iter([(query(dice, waiting), body(dice)) for _ in range(count)])
    told: Counter[int] = Counter()

    async def caller() -> None:
        for target, sent in calls:
            status = await asked(stage.door.app, target, sent)
            assert status in {200, 202, 400, 401}, (status, target, sent[:300])
            told[status] += 1

    before = await stage.versions()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    assert told.total() == count
    assert min(told[200], told[202], told[400], told[401]) > count / 100, told
    assert await stage.versions() == before
    assert set(stage.door.woken()) == {known, waiting}
