"""Bodies of the real routes: who may send one is asked first, and no body of anybody else keeps KIE's callback out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from reconciler.bootstrap.http import routers
from reconciler.health import Health
from reconciler.http.bodies import BodyRouter, RequestBody
from reconciler.http.limits import RequestLimits
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.simulator import Simulator
from reconciler.simulator.api.callbacks import sign
from testkit.waiting import until
from tests.http.api import ANN, BOB, ServedApi, opened, token

MIB = 1 << 20
SECRET, KEY = "sesame-open", "key-of-the-signature"
CALLBACK = f"/api/kie/callback?secret={SECRET}"
BODY = json.dumps({"code": 200, "data": {"taskId": "task-of-the-callback", "state": "success"}}).encode()


@pytest.fixture
async def api(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[ServedApi]:
    async with opened(rows_dsn, kie, tmp_path, KIE_CALLBACK_SECRET=SECRET) as api:
        yield api


@asynccontextmanager
async def begun(
    api: ServedApi, path: str, *headers: str, length: int, body: bytes = b""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send the head of a request and the beginning of its body."""
    port = api.operator.base_url.port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {length}", *headers])
        writer.write(f"{head}\r\n\r\n".encode() + body)
        yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def started(
    api: ServedApi, path: str, *headers: str, length: int, body: bytes = b""
) -> AsyncIterator[asyncio.StreamReader]:
    """Send the same; only the answer is of interest."""
    async with begun(api, path, *headers, length=length, body=body) as (reader, _):
        yield reader


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(20):
        return int((await reader.readline()).split()[1])


def bearer(user_id: str) -> str:
    return f"Authorization: Bearer {token(user_id)}"


async def test_every_route_with_a_body_has_a_rule_and_bounds_its_fields(api: ServedApi) -> None:
    made = routers(api.parts.settings, ReadinessGate(Health(45.0)), api.parts.metrics)
    routes = [(router, route) for router in made for route in router.routes if isinstance(route, APIRoute)]
    posts = {route.path: router for router, route in routes if route.methods - {"GET", "HEAD"}}
    assert set(posts) == {"/api/kie/callback", "/api/kie/createTask", "/api/kie/downloadUrl"}
    for path, router in posts.items():
        assert isinstance(router, BodyRouter)
        assert path in router.body_rules
    models = [route.body_field.field_info.annotation for _, route in routes if route.body_field is not None]
    assert len(models) == 2
    assert all(isinstance(model, type) and issubclass(model, RequestBody) for model in models)


@pytest.mark.parametrize("path", ["/api/kie/callback?secret=wrong", "/api/kie/createTask", "/api/kie/downloadUrl"])
async def test_n7_a_stranger_is_refused_before_the_body_comes(api: ServedApi, path: str) -> None:
    for headers in ((), ("Authorization: Bearer nobody",), ("Expect: 100-continue",)):
        async with started(api, path, *headers, length=1000) as reader:
            assert await status_of(reader) == 401


@pytest.mark.parametrize(
    ("path", "longest"), [(CALLBACK, MIB), ("/api/kie/createTask", MIB), ("/api/kie/downloadUrl", 128 << 10)]
)
async def test_a_length_that_is_too_long_is_refused_before_the_body_comes(
    api: ServedApi, path: str, longest: int
) -> None:
    async with started(api, path, bearer(ANN), length=longest + 1) as reader:
        assert await status_of(reader) == 413


async def test_a_callback_that_must_be_signed_is_refused_by_its_head(
    rows_dsn: str, kie: Simulator, tmp_path: Path
) -> None:
    path, at = "/api/kie/callback", int(time.time())
    signature = sign(KEY, "task-of-the-callback", at)
    heads: list[tuple[list[str], int]] = [
        ([], 401),
        ([f"X-Webhook-Timestamp: {at}"], 401),
        ([f"X-Webhook-Timestamp: {at - 3600}", f"X-Webhook-Signature: {signature}"], 401),
        ([f"X-Webhook-Timestamp: {at}", "X-Webhook-Signature: short"], 401),
    ]
    async with opened(rows_dsn, kie, tmp_path, KIE_WEBHOOK_HMAC_KEY=KEY) as api:
        for headers, status in heads:
            async with started(api, path, *headers, length=len(BODY)) as reader:
                assert await status_of(reader) == status, headers
        signed = [f"X-Webhook-Timestamp: {at}", f"X-Webhook-Signature: {signature}"]
        async with started(api, path, *signed, length=len(BODY), body=BODY) as reader:
            assert await status_of(reader) == 202


async def test_n7_a_callback_is_taken_while_strangers_and_users_send_all_they_can(api: ServedApi) -> None:
    """Unauthenticated bodies fill the memory, and callbacks get 503."""
    limits = RequestLimits()
    part = b"x" * (MIB - 10)
    senders = [("/api/kie/callback?secret=wrong", ()), ("/api/kie/createTask", ())] * 35
    users = [("/api/kie/createTask", (bearer(user),)) for user in (ANN, BOB)] * (limits.held // MIB // 2 + 2)
    async with (
        begun(api, CALLBACK, length=len(BODY), body=BODY[:20]) as (slow_callback, writer),
        AsyncExitStack() as stack,
    ):
        readers = [
            await stack.enter_async_context(started(api, path, *headers, length=MIB, body=part))
            for path, headers in (*senders, *users)
        ]
        assert [await status_of(reader) for reader in readers[:70]] == [401] * 70
        # The users' bodies fill their memory: the first of them have given way.
        assert await status_of(readers[70]) == 503
        writer.write(BODY[20:])
        assert await status_of(slow_callback) == 202
        async with started(api, CALLBACK, length=len(BODY), body=BODY) as reader:
            assert await status_of(reader) == 202


async def test_n7_a_callback_is_taken_while_others_forge_its_head(
    rows_dsn: str, kie: Simulator, tmp_path: Path
) -> None:
    """Only the body can show that a signature is wrong, so forged callbacks are read, and the oldest give way."""
    path, at = "/api/kie/callback", int(time.time())
    forged = [f"X-Webhook-Timestamp: {at}", f"X-Webhook-Signature: {'s' * 44}"]
    true = [f"X-Webhook-Timestamp: {at}", f"X-Webhook-Signature: {sign(KEY, 'task-of-the-callback', at)}"]
    async with opened(rows_dsn, kie, tmp_path, KIE_WEBHOOK_HMAC_KEY=KEY) as api, AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(started(api, path, *forged, length=MIB, body=b"x" * (MIB - 10)))
            for _ in range(RequestLimits().held // MIB + 2)
        ]
        assert await status_of(readers[0]) == 503
        async with started(api, path, *true, length=len(BODY), body=BODY) as reader:
            assert await status_of(reader) == 202


async def test_refused_callbacks_are_counted_though_no_route_sees_them(api: ServedApi) -> None:
    def counted(result: str) -> float:
        count: float = api.parts.metrics.callbacks.labels(result)._value.get()
        return count

    async with (
        started(api, "/api/kie/callback?secret=wrong", length=5) as stranger,
        started(api, CALLBACK, length=2 * MIB) as long,
    ):
        assert [await status_of(stranger), await status_of(long)] == [401, 413]
    await until(lambda: (counted("unauthorized"), counted("too_large")) == (1, 1), what="both counts")
