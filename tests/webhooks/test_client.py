"""One webhook request: what is sent, how it is signed, and how each answer is judged."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from reconciler.errors import Config, Gone, Permanent, Transient
from reconciler.net.http_clients import json_client
from reconciler.postgres.outbox import OutboxEvent
from reconciler.webhooks.client import WebhookClient
from tests.wire import Origin, bare, chunked, ok, origin

SECRET = "whsec_" + base64.b64encode(b"the key that both of them know").decode()
AT = datetime(2026, 1, 31, 13, 0, 0, 123456, tzinfo=UTC)
PAYLOAD = {"generation_id": "g-1", "task_id": "t-1", "reason": 'nicht erlaubt: ü\n"<&>'}
EVENT = OutboxEvent(7, "g-1|t-1|failed|0", "g-1", "failed", PAYLOAD, AT, 1, AT + timedelta(minutes=1))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with json_client() as opened:
        yield opened


def headers(head: str) -> dict[str, str]:
    lines = head.split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


async def deliver(client: httpx.AsyncClient, *answers: Any, path: str = "/hook", seconds: float = 5.0) -> Origin:
    """Deliver the event to a receiver that gives these answers; return what it received."""
    async with origin(*answers) as seen:
        await WebhookClient(client, seen.url + path, SECRET, timeout=seconds).deliver(EVENT)
    return seen


async def test_the_library_verifies_the_signature_and_the_body_holds_type_time_and_payload(
    client: httpx.AsyncClient,
) -> None:
    seen = await deliver(client, ok(b""))
    sent = headers(seen.heads[0])
    body = Webhook(SECRET).verify(seen.bodies[0], sent)
    assert body == {"type": "generation.failed", "timestamp": "2026-01-31T13:00:00.123Z", "data": PAYLOAD}
    assert seen.heads[0].startswith("POST /hook HTTP/1.1\r\n")
    assert sent["content-type"] == "application/json"
    assert sent["webhook-id"] == EVENT.webhook_id
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(seen.bodies[0].replace(b"t-1", b"t-2"), sent)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET[:-4] + "AAAA").verify(seen.bodies[0], sent)


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), SECRET.rstrip("="), "0f" * 16])
async def test_a_receiver_verifies_with_the_secret_as_the_settings_spell_it(
    client: httpx.AsyncClient, secret: str
) -> None:
    async with origin(ok(b"")) as seen:
        await WebhookClient(client, seen.url, secret).deliver(EVENT)
    assert Webhook(secret).verify(seen.bodies[0], headers(seen.heads[0]))["data"] == PAYLOAD


async def test_every_try_has_the_same_id_and_body_and_its_own_timestamp(client: httpx.AsyncClient) -> None:
    async with origin(ok(b"")) as seen:
        receiver = WebhookClient(client, seen.url, SECRET)
        await receiver.deliver(EVENT)
        await receiver.deliver(EVENT)
    first, second = map(headers, seen.heads)
    assert first["webhook-id"] == second["webhook-id"]
    assert seen.bodies[0] == seen.bodies[1]
    now = datetime.now(UTC).timestamp()
    assert now - 10 < int(first["webhook-timestamp"]) <= now


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
async def test_any_2xx_counts_as_delivered(client: httpx.AsyncClient, status: str) -> None:
    await deliver(client, ok(b"", status=status))


@pytest.mark.parametrize(
    ("status", "wait"),
    [
        ("301 Moved", None), ("400 Bad", None), ("401 Who", None), ("404 Not Found", None), ("500 Oh", None),
        ("503 Busy", 30.0), ("429 Slow", 30.0), ("502 Gate", None),
    ],
)  # fmt: skip
async def test_any_other_status_is_transient_with_the_retry_after_of_a_busy_receiver(
    client: httpx.AsyncClient, status: str, wait: float | None
) -> None:
    answer = ok(b"no", "Retry-After: 30", "Location: /elsewhere", status=status)
    async with origin(answer) as seen:
        with pytest.raises(Transient) as caught:
            await WebhookClient(client, seen.url, SECRET).deliver(EVENT)
    assert (caught.value.code, caught.value.retry_after) == (f"http_{status[:3]}", wait)
    assert len(seen.heads) == 1, "a redirect was followed"


async def test_410_is_gone(client: httpx.AsyncClient) -> None:
    with pytest.raises(Gone) as caught:
        await deliver(client, ok(b"", status="410 Gone"))
    assert isinstance(caught.value, Permanent)
    assert caught.value.code == "http_410"


async def silent(*_: object) -> None:
    await asyncio.Event().wait()


async def endless_head(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await writer.drain()
    await asyncio.Event().wait()


async def endless_body(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    await writer.drain()
    await asyncio.Event().wait()


async def flood(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(chunked(b"x" * 65536, end=False))
        await writer.drain()


@pytest.mark.parametrize("answer", [silent, endless_head])
async def test_a_receiver_that_does_not_answer_times_out(client: httpx.AsyncClient, answer: Any) -> None:
    with pytest.raises(Transient) as caught:
        await deliver(client, answer, seconds=0.3)
    assert caught.value.code == "timeout"


@pytest.mark.parametrize("answer", [endless_body, flood])
async def test_a_2xx_counts_although_its_body_never_ends(client: httpx.AsyncClient, answer: Any) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await deliver(client, answer, seconds=30.0)
    assert loop.time() - began < 3


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", bare(b"", "X: " + "y" * 20_000)])
async def test_an_answer_that_is_no_http_is_a_network_error(client: httpx.AsyncClient, answer: bytes) -> None:
    with pytest.raises(Transient) as caught:
        await deliver(client, answer)
    assert caught.value.code == "network"


async def test_a_refused_connection_is_a_network_error(client: httpx.AsyncClient) -> None:
    async with origin(ok(b"")) as seen:
        url = seen.url
    with pytest.raises(Transient) as caught:
        await WebhookClient(client, url, SECRET).deliver(EVENT)
    assert caught.value.code == "network"


async def test_login_and_query_of_the_address_are_sent_and_never_part_of_an_error(client: httpx.AsyncClient) -> None:
    async with origin(ok(b""), ok(b"", status="500 Oh")) as seen:
        url = seen.url.replace("//", "//shop:p%40ss@") + "/in/?key=t0k3n#part"
        receiver = WebhookClient(client, url, SECRET)
        await receiver.deliver(EVENT)
        with pytest.raises(Transient) as refused:
            await receiver.deliver(EVENT)
    with pytest.raises(Transient) as away:
        await receiver.deliver(EVENT)
    assert seen.heads[0].startswith("POST /in/?key=t0k3n HTTP/1.1\r\n")
    assert headers(seen.heads[0])["authorization"] == "Basic " + base64.b64encode(b"shop:p@ss").decode()
    for error in (refused.value, away.value):
        shown = f"{error!r} {error.__cause__!r} {error.hint}"
        assert not any(part in shown for part in ("t0k3n", "p@ss", "p%40ss", "whsec", "127.0.0.1"))


async def test_the_body_is_json_for_any_payload(client: httpx.AsyncClient) -> None:
    odd = OutboxEvent(8, "k", "g", "succeeded", {"n": [1, None, True], "t": "\u2028\U0001f600"}, AT, 1, AT)
    async with origin(ok(b"")) as seen:
        await WebhookClient(client, seen.url, SECRET).deliver(odd)
    assert json.loads(seen.bodies[0])["data"] == odd.payload
    Webhook(SECRET).verify(seen.bodies[0], headers(seen.heads[0]))


async def test_an_invalid_address_is_an_error_that_names_its_setting(client: httpx.AsyncClient) -> None:
    with pytest.raises(Config, match="RECONCILER_NOTIFY_URL"):
        WebhookClient(client, "https://\u200b.exa\u2028mple/", SECRET)
