"""The client of KIE's API: every answer is limited in size, and no key is ever shown."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from reconciler.demo.embedded_postgres import free_port
from reconciler.errors import Gone, Permanent, ReconcilerError, Transient
from reconciler.kie.client import MAX_BODY, KieClient, KieReply, key_hash
from reconciler.kie.dialects.parsing import MAX_VALUES
from reconciler.net.http_clients import USER_AGENT, kie_session
from tests.wire import Answer, Origin, bare, chunked, ok, origin

RECORDINGS = Path(__file__).resolve().parents[2].parent / "shared" / "kie-recordings"
SECRET = "sesame-open-0123456789"
KEY = key_hash(SECRET)
MARKET = "/api/v1/jobs/recordInfo"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with kie_session(timeout=5.0) as opened:
        yield opened


def kie(session: aiohttp.ClientSession, server: Origin, patience: float = 60.0) -> KieClient:
    return KieClient(session, server.url + "/", {KEY: SECRET}, timeout=patience)


def envelope(code: object, value: object, msg: str = "success") -> bytes:
    return json.dumps({"code": code, "msg": msg, "data": value}).encode()


async def record(session: aiohttp.ClientSession, *answers: bytes | Answer, task_id: str = "T") -> KieReply:
    async with origin(*answers) as server:
        return await kie(session, server).record(task_id, path=MARKET, key_hash=KEY)


async def test_a_record_is_requested_with_the_key_and_returned_as_it_is(session: aiohttp.ClientSession) -> None:
    async with origin(ok(envelope(200, {"state": "waiting"}))) as server:
        reply = await kie(session, server).record("a1", path=MARKET, key_hash=KEY)
    assert reply == KieReply(status=200, body={"code": 200, "msg": "success", "data": {"state": "waiting"}})
    assert server.paths == [f"{MARKET}?taskId=a1"]
    head = server.heads[0].lower()
    assert head.startswith("get ")
    assert f"authorization: bearer {SECRET}\r\n" in head
    assert f"user-agent: {USER_AGENT}\r\n" in head


async def test_each_key_of_the_ring_is_found_by_its_hash(session: aiohttp.ClientSession) -> None:
    secrets = ["first", "second", "third"]
    async with origin(ok(b"{}")) as server:
        ring = KieClient(session, server.url, {key_hash(secret): secret for secret in secrets})
        for secret in reversed(secrets):
            await ring.record("T", path=MARKET, key_hash=key_hash(secret))
    lines = [line.lower() for head in server.heads for line in head.splitlines()]
    bearers = [line for line in lines if line.startswith("authorization")]
    assert bearers == [f"authorization: bearer {secret}" for secret in reversed(secrets)]


async def test_a_key_that_is_not_configured_is_a_transient_error(session: aiohttp.ClientSession) -> None:
    async with origin(ok(b"{}")) as server:
        with pytest.raises(Transient) as caught:
            await kie(session, server).record("T", path=MARKET, key_hash="0" * 16)
    assert caught.value.code == "key_missing"
    assert server.connections == 0


def test_a_key_is_named_by_the_start_of_its_sha256() -> None:
    # The digest of "abc" in FIPS 180-2, appendix B.1.
    assert key_hash("abc") == "ba7816bf8f01cfea"


@pytest.mark.parametrize("task_id", ["a b", "x&taskId=y", "../../admin", "#", "ü", "%00", "a\r\nX: y", "'; DROP"])
async def test_a_task_id_cannot_change_the_path_or_the_query(session: aiohttp.ClientSession, task_id: str) -> None:
    async with origin(ok(b"{}")) as server:
        await kie(session, server).record(task_id, path=MARKET, key_hash=KEY)
    parts = urlsplit(server.paths[0])
    assert parts.path == MARKET
    assert parse_qs(parts.query, strict_parsing=True) == {"taskId": [task_id]}


async def test_a_task_id_of_a_megabyte_is_not_sent(session: aiohttp.ClientSession) -> None:
    with pytest.raises(Transient) as caught:
        await record(session, ok(b"{}"), task_id="x" * 1_000_000)
    assert caught.value.code == "unaskable"


NOT_JSON = {
    "nothing": b"",
    "an error page": b"<!DOCTYPE html><html>error code: 1010</html>",
    "a record cut off": envelope(200, {"state": "success"})[:-9],
    "two documents": b"{}{}",
    "not in UTF-8": b'{"a":"\xff\xfe"}',
    "10,000 levels": b"[" * 10_000 + b"]" * 10_000,
    "half a million levels": b'{"a":' * 500_000,
    "a huge number": b"9" * 5000,
}


@pytest.mark.parametrize("what", NOT_JSON)
async def test_an_answer_without_json_has_no_body_and_keeps_its_status(
    session: aiohttp.ClientSession, what: str
) -> None:
    reply = await record(session, ok(NOT_JSON[what], status="502 Bad Gateway"))
    assert reply == KieReply(status=502, body=None)


@pytest.mark.parametrize("value", [[1], "text", 5, True, {"nested": None}])
async def test_json_of_any_form_is_returned(session: aiohttp.ClientSession, value: object) -> None:
    assert (await record(session, ok(json.dumps(value).encode()))).body == value


@pytest.mark.parametrize("status", ["200 OK", "401 U", "429 T", "455 M", "500 E", "302 F"])
async def test_every_status_is_a_reply_and_not_an_error(session: aiohttp.ClientSession, status: str) -> None:
    reply = await record(session, ok(envelope(1, None), "Location: /elsewhere", status=status))
    assert reply.status == int(status[:3])


async def test_the_retry_after_of_a_busy_kie_is_returned(session: aiohttp.ClientSession) -> None:
    reply = await record(session, ok(b"{}", "Retry-After: 9", status="429 T"))
    assert reply.retry_after == 9.0


async def test_compressed_answers_are_decompressed(session: aiohttp.ClientSession) -> None:
    body = envelope(200, {"state": "waiting"})
    in_chunks = [gzip.compress(body)[:7], gzip.compress(body)[7:]]
    answers = [
        bare(chunked(*in_chunks), "Content-Encoding: gzip", "Transfer-Encoding: chunked"),
        ok(gzip.compress(body), "Content-Encoding: GZIP"),
        ok(zlib.compress(body), "Content-Encoding: deflate"),
    ]
    for answer in answers:
        assert (await record(session, answer)).body == json.loads(body)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_an_answer_that_cannot_be_decompressed_has_no_body(session: aiohttp.ClientSession, encoding: str) -> None:
    reply = await record(session, ok(b"\x00\x01rubbish", f"Content-Encoding: {encoding}"))
    assert reply.body is None


@functools.cache
def packed() -> bytes:
    return ok(gzip.compress(bytes(200 << 20)), "Content-Encoding: gzip")


async def bomb(writer: asyncio.StreamWriter, head: str) -> None:
    writer.write(packed())
    await writer.drain()


async def endless(writer: asyncio.StreamWriter, head: str) -> None:
    writer.write(bare(b'{"a":"'))
    while True:
        writer.write(b"x" * (1 << 16))
        await writer.drain()


@pytest.mark.parametrize(
    "answer",
    [
        ok(b'"' + b"x" * MAX_BODY + b'"'),
        bomb,
        endless,
    ],
    ids=["large", "bomb", "endless"],
)
async def test_an_answer_is_limited_in_size_compressed_or_not(
    session: aiohttp.ClientSession, answer: bytes | Answer
) -> None:
    with pytest.raises(Transient) as caught:
        await record(session, answer)
    assert caught.value.code == "too_large"


async def test_an_answer_with_more_values_than_are_parsed_has_no_body(session: aiohttp.ClientSession) -> None:
    assert (await record(session, ok(b"[" + b"0," * MAX_VALUES + b"0]"))).body is None
    assert (await record(session, ok(b"[" + b"0," * (MAX_VALUES - 2) + b"0]"))).body == [0] * (MAX_VALUES - 1)


async def test_a_decompression_bomb_is_not_decompressed_to_its_end(session: aiohttp.ClientSession) -> None:
    packed()
    tracemalloc.start()
    try:
        with pytest.raises(Transient):
            await record(session, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_BODY


async def test_bytes_after_a_finished_stream_are_neither_kept_nor_waited_for(session: aiohttp.ClientSession) -> None:
    async def finished(writer: asyncio.StreamWriter, head: str) -> None:
        writer.write(bare(gzip.compress(envelope(200, "whole")), "Content-Encoding: gzip"))
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    async with origin(finished) as server:
        reply = await kie(session, server, patience=2.0).record("T", path=MARKET, key_hash=KEY)
    assert reply.body == json.loads(envelope(200, "whole"))


async def test_an_answer_of_the_largest_size_is_read(session: aiohttp.ClientSession) -> None:
    text = "x" * (MAX_BODY - 2)
    assert (await record(session, ok(json.dumps(text).encode()))).body == text


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0\r\n\r\n", ok(b"{}", length=50), bare(chunked(b"{}", end=False), "Transfer-Encoding: chunked")],
)
async def test_a_connection_that_breaks_is_a_network_failure(session: aiohttp.ClientSession, answer: bytes) -> None:
    with pytest.raises(Transient) as caught:
        await record(session, answer)
    assert caught.value.code == "network"


async def test_a_closed_port_is_a_network_failure(session: aiohttp.ClientSession) -> None:
    async with origin(b"") as server:
        ring = kie(session, server)
    with pytest.raises(Transient) as caught:
        await ring.record("T", path=MARKET, key_hash=KEY)
    assert caught.value.code == "network"


async def silent(writer: asyncio.StreamWriter, head: str) -> None:
    await asyncio.Event().wait()


async def trickle(writer: asyncio.StreamWriter, head: str) -> None:
    writer.write(bare(b'"'))
    never = asyncio.Event()
    while True:
        writer.write(b"x")
        await writer.drain()
        try:
            await asyncio.wait_for(never.wait(), 0.01)
        except TimeoutError:
            continue


@pytest.mark.parametrize(("answer", "silence", "patience"), [(silent, 0.1, 60), (trickle, 30, 0.2)])
async def test_neither_silence_nor_a_trickle_exceeds_the_timeout(
    answer: Answer, silence: float, patience: float
) -> None:
    async with kie_session(timeout=silence) as session, origin(answer) as server:
        with pytest.raises(Transient) as caught:
            await kie(session, server, patience).record("T", path=MARKET, key_hash=KEY)
    assert caught.value.code == "timeout"


async def test_no_error_and_no_repr_shows_the_key(session: aiohttp.ClientSession) -> None:
    broken = [b"", b"junk\r\n\r\n", ok(b"{}", length=9), ok(b'"' + bytes(MAX_BODY) + b'"')]
    secrets = [SECRET, SECRET + "\n", SECRET + "ü", SECRET + "\x00"]
    async with origin(*broken) as server:
        for secret in [*secrets, *[SECRET] * len(broken)]:
            ring = KieClient(session, server.url, {"k": secret})
            with pytest.raises(ReconcilerError) as caught:
                await ring.credit(key_hash="k")
            shown = "".join(traceback.format_exception(caught.value)) + repr(ring) + caught.value.hint
            assert SECRET not in shown


async def test_a_new_address_for_a_result_is_returned(session: aiohttp.ClientSession) -> None:
    minted = "https://x.r2.cloudflarestorage.com/a?X-Amz-Expires=1200"
    async with origin(ok(envelope(200, minted))) as server:
        url = "https://tempfile.aiquickdraw.com/ü\ud800.png"
        assert await kie(session, server).download_url(url, key_hash=KEY) == minted
    assert server.heads[0].startswith("POST /api/v1/common/download-url ")
    assert "content-type: application/json" in server.heads[0].lower()
    assert json.loads(server.bodies[0]) == {"url": url}


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (ok(envelope(422, None, "url is wrong")), Permanent, "download_url_refused"),
        (ok(envelope("422", None, "url is wrong")), Permanent, "download_url_refused"),
        (ok(envelope(404, None)), Gone, "kie_404"),
        (ok(b"{}", status="410 Gone"), Gone, "kie_410"),
        (ok(envelope(401, None)), Permanent, "key_rejected"),
        (ok(envelope(402, None)), Transient, "kie_refused"),
        (ok(envelope(429, None)), Transient, "rate_limited"),
        (ok(envelope(200, "https://x/"), status="429 T"), Transient, "rate_limited"),
        (ok(envelope(455, None)), Transient, "kie_refused"),
        (ok(envelope(500, None)), Transient, "kie_refused"),
        (ok(envelope(None, "https://x/"), status="503 Away"), Transient, "kie_refused"),
        (ok(envelope(200, None)), Transient, "kie_no_address"),
        (ok(envelope(200, "")), Transient, "kie_no_address"),
        (ok(envelope(200, ["https://x/"])), Transient, "kie_no_address"),
        (ok(b"<html>"), Transient, "not_json"),
        (ok(b"[]"), Transient, "not_json"),
    ],
)
async def test_an_error_of_download_url_says_what_to_do(
    session: aiohttp.ClientSession, answer: bytes, kind: type[ReconcilerError], code: str
) -> None:
    async with origin(answer) as server:
        with pytest.raises(ReconcilerError) as caught:
            await kie(session, server).download_url("https://x/", key_hash=KEY)
    assert type(caught.value) is kind
    assert caught.value.code == code


@pytest.mark.parametrize(("code", "value"), [(200, 5916.25), (200, 7), (0, "12.5"), ("200", 0), (None, 3)])
async def test_the_credit_is_a_number(session: aiohttp.ClientSession, code: object, value: object) -> None:
    async with origin(ok(envelope(code, value))) as server:
        assert await kie(session, server).credit(key_hash=KEY) == float(str(value))
    assert server.paths == ["/api/v1/chat/credit"]


@pytest.mark.parametrize("value", [None, True, "many", {}, [5]])
async def test_a_credit_that_is_no_number_is_a_transient_error(session: aiohttp.ClientSession, value: object) -> None:
    async with origin(ok(envelope(200, value))) as server:
        with pytest.raises(Transient) as caught:
            await kie(session, server).credit(key_hash=KEY)
    assert caught.value.code == "kie_no_credit"


def recorded(path: str) -> list[bytes]:
    file = RECORDINGS / "other-endpoints.json"
    if not file.exists():
        pytest.skip(f"no recordings at {RECORDINGS.parent.name}/{RECORDINGS.name}")
    found = json.loads(file.read_text())
    return [json.dumps(one["body"]).encode() for one in found if one["path"] == path]


async def test_kies_own_recorded_credits_are_read(session: aiohttp.ClientSession) -> None:
    for body in recorded("/api/v1/chat/credit"):
        async with origin(ok(body)) as server:
            assert await kie(session, server).credit(key_hash=KEY) > 0


async def test_kies_own_recorded_refusal_of_a_foreign_address_is_final(session: aiohttp.ClientSession) -> None:
    for body in recorded("/api/v1/common/download-url"):
        async with origin(ok(body)) as server:
            with pytest.raises(Permanent):
                await kie(session, server).download_url("https://example.com/x.png", key_hash=KEY)


@pytest.mark.parametrize("status", [401, 402, 404, 422, 429, 455, 500])
async def test_what_kie_said_is_kept_without_the_key(session: aiohttp.ClientSession, status: int) -> None:
    said = envelope(status, None, f"Credits insufficient for Bearer {SECRET}\nsecond line")
    async with origin(ok(said)) as server:
        with pytest.raises(ReconcilerError) as refused:
            await kie(session, server).credit(key_hash=KEY)
    assert str(refused.value).startswith(f"KIE answers credit with {status}: Credits insufficient for ")
    assert str(refused.value).endswith(" second line")
    assert SECRET not in str(refused.value)


async def test_a_kie_that_cannot_be_reached_is_named_with_what_happened(session: aiohttp.ClientSession) -> None:
    client = KieClient(session, f"http://127.0.0.1:{free_port()}", {KEY: SECRET})
    with pytest.raises(Transient) as away:
        await client.credit(key_hash=KEY)
    assert str(away.value) == f"KIE is away: {client.place} refuses the connection"
    assert away.value.code == "network"


async def test_an_answer_without_an_envelope_keeps_its_status_and_the_place(session: aiohttp.ClientSession) -> None:
    async with origin(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops") as server:
        client = kie(session, server)
        with pytest.raises(Transient) as odd:
            await client.credit(key_hash=KEY)
    assert str(odd.value) == f"KIE's credit answer is no JSON (HTTP 502, {client.place})"
