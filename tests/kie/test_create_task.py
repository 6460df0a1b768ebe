"""createTask: it is sent once, and every answer is a success, a refusal, or uncertain."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from reconciler.kie.client import MAX_BODY, KieClient, key_hash
from reconciler.kie.create_endpoints import ENDPOINTS, CreateEndpoint
from reconciler.kie.create_task import (
    CreateAccepted,
    CreateNotSent,
    CreateOutcome,
    CreateRefused,
    CreateUncertain,
    create_task,
)
from reconciler.net.http_clients import kie_session
from testkit.waiting import until
from tests.wire import Answer, Origin, bare, chunked, ok, origin

SECRET = "sesame-open-0123456789"
KEY = key_hash(SECRET)
TASK = "0f3a5b1c9d7e4f60a1b2c3d4e5f60718"
ORDER = {"model": "nano-banana-2", "input": {"prompt": "маяк"}, "callBackUrl": "https://shop.example/cb?generation=g"}
MARKET, *_ = ENDPOINTS
BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}
PACKAGE = Path(__file__).resolve().parents[2] / "reconciler"


@pytest.fixture(scope="module")
def certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


@pytest.fixture
async def session(
    certificates: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[aiohttp.ClientSession]:
    # Loading the certificates takes longer than any test here, and no test uses TLS.
    monkeypatch.setattr(ssl, "create_default_context", lambda *_, **__: certificates)
    async with kie_session(timeout=5.0, keep_alive=False) as opened:
        yield opened


def envelope(code: object, value: object, msg: str = "success") -> bytes:
    return json.dumps({"code": code, "msg": msg, "data": value}).encode()


async def ordered(
    session: aiohttp.ClientSession,
    server: Origin,
    patience: float = 20.0,
    secret: str = SECRET,
    endpoint: CreateEndpoint = MARKET,
) -> CreateOutcome:
    kie = KieClient(session, server.url, {key_hash(secret): secret}, timeout=patience)
    return await create_task(kie, endpoint, ORDER, key_hash=key_hash(secret))


async def answered(
    session: aiohttp.ClientSession,
    answer: bytes | Answer,
    patience: float = 20.0,
    endpoint: CreateEndpoint = MARKET,
) -> CreateOutcome:
    """Return the outcome of one order, which must have been sent exactly once."""
    async with origin(answer) as server:
        outcome = await ordered(session, server, patience, endpoint=endpoint)
    assert len(server.heads) == 1
    return outcome


async def test_an_order_is_one_post_with_the_key_and_its_task_comes_back(session: aiohttp.ClientSession) -> None:
    async with origin(ok(envelope(200, {"taskId": TASK, "recordId": TASK}))) as server:
        assert await ordered(session, server) == CreateAccepted(TASK)
    assert server.heads[0].startswith("POST /api/v1/jobs/createTask HTTP/1.1\r\n")
    head = server.heads[0].lower()
    assert f"authorization: bearer {SECRET}\r\n" in head
    assert "content-type: application/json\r\n" in head
    assert json.loads(server.bodies[0]) == ORDER


YES = {
    "code 0": envelope(0, {"taskId": TASK}),
    "a code in quotes": envelope("200", {"taskId": TASK}),
    "another spelling": envelope(200, {"task_id": TASK}),
    "a record's id alone": envelope(200, {"recordId": TASK}),
    "both, of which the task's counts": envelope(200, {"taskId": TASK, "recordId": "another"}),
}


@pytest.mark.parametrize("what", YES)
async def test_a_task_id_under_success_is_a_task(session: aiohttp.ClientSession, what: str) -> None:
    assert await answered(session, ok(YES[what])) == CreateAccepted(TASK)


REFUSALS = (400, 401, 402, 403, 404, 413, 422, 429, 430, 433, 451, 455, 500, 501, 505, 550)


@pytest.mark.parametrize("status", ["200 OK", "402 Payment Required", "500 Internal Server Error"])
@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refusal_code_in_the_envelope_is_a_refusal_with_any_http_status(
    session: aiohttp.ClientSession, code: int, status: str
) -> None:
    refused = await answered(session, ok(envelope(code, None, "no"), status=status))
    assert refused == CreateRefused(code, "no", None)


@pytest.mark.parametrize("status", ["200 OK", "504 Gateway Timeout"])
@pytest.mark.parametrize(
    "code", [-1, 1, 201, 202, 302, 405, 408, 409, 425, 499, 502, 503, 504, 520, 521, 522, 523, 524, 531, 999]
)
async def test_a_code_that_a_gateway_may_send_is_no_refusal(
    session: aiohttp.ClientSession, code: int, status: str
) -> None:
    outcome = await answered(session, ok(envelope(code, None, "Gateway Timeout"), status=status))
    assert isinstance(outcome, CreateUncertain)
    assert "Gateway Timeout" in outcome.reason


@pytest.mark.parametrize(
    "named",
    [
        {"taskId": TASK},
        {"task_id": TASK},
        {"recordId": TASK},
        {"taskId": "a\x00b"},
        {"taskId": 7},
        json.dumps({"taskId": TASK}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("code", [402, 429, 500, 501])
async def test_a_refusal_that_names_a_task_is_uncertain(
    session: aiohttp.ClientSession, code: int, named: object
) -> None:
    assert isinstance(await answered(session, ok(envelope(code, named, "no"))), CreateUncertain)


async def test_a_task_next_to_a_refusal_is_uncertain_too(session: aiohttp.ClientSession) -> None:
    said = json.dumps({"code": 500, "msg": "no", "data": None, "taskId": TASK}).encode()
    assert isinstance(await answered(session, ok(said)), CreateUncertain)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_each_endpoint_refuses_with_its_own_codes_and_with_no_other(
    session: aiohttp.ClientSession, endpoint: CreateEndpoint
) -> None:
    own = BY_NAME[endpoint.name].refusals
    answers = [ok(envelope(code, None, "no cats")) for code in (*REFUSALS, 409, 408, 504)]
    async with origin(*answers) as server:
        for code in (*REFUSALS, 409, 408, 504):
            outcome = await ordered(session, server, endpoint=endpoint)
            assert isinstance(outcome, CreateRefused if code in own else CreateUncertain), code
    assert server.paths == [endpoint.path] * len(answers)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_each_endpoints_task_is_in_data(session: aiohttp.ClientSession, endpoint: CreateEndpoint) -> None:
    said = ok(envelope(200, {"taskId": TASK}))
    assert await answered(session, said, endpoint=endpoint) == CreateAccepted(TASK)
    alone = ok(envelope(200, {"recordId": TASK}))
    outcome = await answered(session, alone, endpoint=endpoint)
    assert isinstance(outcome, CreateAccepted if endpoint is MARKET else CreateUncertain)


@pytest.mark.parametrize(
    "message", ["1080P is processing. Please check back shortly.", "4k is processing.", "The video is generating"]
)
async def test_a_code_of_refusals_for_work_that_goes_on_is_uncertain(
    session: aiohttp.ClientSession, message: str
) -> None:
    for code in (400, 422):
        said = ok(envelope(code, None, message))
        assert isinstance(await answered(session, said, endpoint=BY_NAME["veo/generate"]), CreateUncertain)


async def test_a_refusal_has_its_retry_after_and_a_reason_of_limited_length(session: aiohttp.ClientSession) -> None:
    said = ok(envelope(429, None, "too\r\nfast\x00 " + "x" * 5000), "Retry-After: 7", status="429 Too Many Requests")
    refused = await answered(session, said)
    assert isinstance(refused, CreateRefused)
    assert (refused.code, refused.retry_after) == (429, 7.0)
    assert refused.message.startswith("too fast xxx")
    assert len(refused.message) == 500


async def test_a_rate_limit_message_counts_as_code_429(session: aiohttp.ClientSession) -> None:
    said = envelope(500, None, "Your call frequency is too high. Please try again later.")
    refused = await answered(session, ok(said))
    assert isinstance(refused, CreateRefused)
    assert refused.code == 429


async def cut(writer: asyncio.StreamWriter, head: str) -> None:
    writer.transport.abort()


async def silent(writer: asyncio.StreamWriter, head: str) -> None:
    await asyncio.Event().wait()


DOUBTFUL: dict[str, bytes | Answer] = {
    "a cut connection": cut,
    "nothing": b"",
    "no HTTP": b"SSH-2.0\r\n\r\n",
    "a body cut off": ok(envelope(200, {"taskId": TASK}), length=5000),
    "chunks without an end": bare(chunked(envelope(200, {"taskId": TASK}), end=False), "Transfer-Encoding: chunked"),
    "half a body": ok(envelope(200, {"taskId": TASK})[:-20]),
    "an answer too large": ok(b'"' + b"x" * MAX_BODY + b'"'),
    "a page of Cloudflare": ok(b"error code: 1010", status="403 Forbidden"),
    "an error page": ok(b"<html>502</html>", status="502 Bad Gateway"),
    "a status without a body": ok(b"", status="429 Too Many Requests"),
    "a list": ok(b"[]"),
    "an envelope without code": ok(b'{"status":500,"error":"Internal Server Error"}', status="500 E"),
    "a word for a code": ok(envelope("failed", None)),
    "a code of true": ok(envelope(True, None)),
    "upstream silent": ok(envelope(408, None, "Upstream is timed out")),
    "success without data": ok(envelope(200, None)),
    "success without an id": ok(envelope(200, {"id": TASK})),
    "success with an empty id": ok(envelope(200, {"taskId": " "})),
    "success with two ids": ok(envelope(200, {"taskId": TASK, "task_id": "other"})),
    "an id no database can hold": ok(envelope(200, {"taskId": "a\x00b"})),
    "a redirect": ok(b"", "Location: /elsewhere", status="307 Temporary Redirect"),
}


@pytest.mark.parametrize("what", DOUBTFUL)
async def test_an_unclear_answer_is_uncertain_and_not_sent_again(session: aiohttp.ClientSession, what: str) -> None:
    assert isinstance(await answered(session, DOUBTFUL[what]), CreateUncertain)


async def test_silence_is_uncertain_after_the_timeout(session: aiohttp.ClientSession) -> None:
    assert isinstance(await answered(session, silent, patience=0.2), CreateUncertain)


async def test_a_refused_connection_is_not_sent(session: aiohttp.ClientSession) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        outcome = await ordered(session, Origin(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert isinstance(outcome, CreateNotSent)


async def test_an_unknown_host_name_is_not_sent(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nowhere(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    assert isinstance(await ordered(session, Origin("http://nowhere.invalid:80")), CreateNotSent)


async def test_a_server_that_accepts_no_connection_is_not_sent(certificates: ssl.SSLContext) -> None:
    # Its queue of one is full: another connection is neither accepted nor refused.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with kie_session(timeout=0.3, keep_alive=False) as session:
            outcome = await ordered(session, Origin(f"http://127.0.0.1:{full.getsockname()[1]}"))
    assert isinstance(outcome, CreateNotSent)


async def test_a_key_that_is_not_configured_sends_nothing(session: aiohttp.ClientSession) -> None:
    async with origin(ok(b"{}")) as server:
        outcome = await create_task(KieClient(session, server.url, {KEY: SECRET}), MARKET, ORDER, key_hash="0" * 16)
    assert isinstance(outcome, CreateNotSent)
    assert server.connections == 0


async def test_every_order_uses_its_own_connection(session: aiohttp.ClientSession) -> None:
    # This server keeps its connections open; only the client closes them.
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        body = envelope(200, {"taskId": TASK})
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
                await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
                writer.write(bare(body, f"Content-Length: {len(body)}"))
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for _ in range(3):
            assert await ordered(session, Origin(url)) == CreateAccepted(TASK)
    assert opened == 3


async def test_no_order_waits_for_the_answer_to_another(session: aiohttp.ClientSession) -> None:
    # This KIE answers only after it has received all orders: an order that waits for a connection would never end.
    everybody = asyncio.Event()

    async def slowly(writer: asyncio.StreamWriter, head: str) -> None:
        await everybody.wait()
        writer.write(ok(envelope(200, {"taskId": TASK})))

    async with origin(slowly) as server:
        orders = [asyncio.create_task(ordered(session, server)) for _ in range(60)]
        await until(lambda: len(server.bodies) == 60, what="every order to reach KIE")
        everybody.set()
        assert set(await asyncio.gather(*orders)) == {CreateAccepted(TASK)}
    assert server.connections == 60


async def test_no_outcome_repeats_the_key(session: aiohttp.ClientSession) -> None:
    for answer in (*DOUBTFUL.values(), ok(envelope(401, None, "no access"))):
        assert SECRET not in repr(await answered(session, answer))
    secret = "with\r\na line break"
    async with origin(ok(b"{}")) as server:
        outcome = await ordered(session, server, secret=secret)
    assert isinstance(outcome, CreateNotSent)
    assert secret not in repr(outcome)
    assert server.heads == []


@pytest.mark.parametrize("before", range(500 - len(SECRET), 501, 7))
@pytest.mark.parametrize("code", [422, 408])
async def test_no_part_of_a_key_is_left_where_a_long_reason_is_cut(
    session: aiohttp.ClientSession, code: int, before: int
) -> None:
    outcome = await answered(session, ok(envelope(code, None, "x" * (before - 1) + " " + SECRET + " y" * 9000)))
    assert isinstance(outcome, CreateRefused | CreateUncertain)
    assert SECRET[:3] not in repr(outcome)


async def test_an_order_that_is_repeated_escaped_does_not_show_the_callbacks_secret(
    session: aiohttp.ClientSession,
) -> None:
    secret = "cbSecret/Zm9v+bar=="
    order = json.dumps({"callBackUrl": f"https://h.example/cb?token_of={secret}&generation=1"})
    echo = order.replace("/", r"\/").replace("=", r"\u003d").replace("&", r"\u0026")
    async with origin(ok(envelope(422, None, f"bad request: {echo}"))) as server:
        kie = KieClient(session, server.url, {KEY: SECRET}, secrets=(secret,))
        outcome = await create_task(kie, MARKET, ORDER, key_hash=KEY)
    assert isinstance(outcome, CreateRefused)
    assert "Zm9v" not in outcome.message
    assert outcome.message.startswith("bad request: ")


def test_no_other_module_knows_the_path_of_create_task() -> None:
    # The simulator replaces KIE, and the demo's shop orders from it.
    texts = {
        path.relative_to(PACKAGE).as_posix(): path.read_text()
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in {"simulator", "demo"}
    }
    assert {name for name, text in texts.items() if "jobs/createTask" in text} == {"kie/create_endpoints.py"}
    assert {name for name, text in texts.items() if "endpoint.path" in text} == {"kie/create_task.py"}
    assert {name for name, text in texts.items() if "kie.post(" in text} == {"kie/create_task.py"}
