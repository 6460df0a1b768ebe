"""A hostile KIE: no active, endless or mislabelled content reaches the public bucket."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reconciler.domain.model import Finish, Reschedule
from reconciler.domain.observations import Unreachable
from tests.wire import Origin, bare, ok, origin
from tests.worker.rig import Rig, opened_rig

KEY = "sesame-open-0123456789"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(5000)
ACTIVE = {
    "a page": (b"<!doctype html><html><script>alert(1)</script></html>", "not_media"),
    "a page behind an empty line": (b"\n\n<HTML><body onload=alert(1)>", "not_media"),
    "a program for Windows": (b"MZ\x90\x00\x03" + bytes(500), "type_refused"),
    "a program for Linux": (b"\x7fELF\x02\x01\x01" + bytes(500), "type_refused"),
    "a shell script": (b"#!/bin/sh\nrm -rf /\n", "type_refused"),
    "a script": (b"alert(document.cookie)", "not_media"),
    "zeros": (bytes(9000), "type_refused"),
}


@asynccontextmanager
async def answering(body: bytes, record: object = None) -> AsyncIterator[Origin]:
    """A KIE whose tasks have one result, or this record; every file is this body, labelled as a picture."""

    async def answer(writer: asyncio.StreamWriter, head: str) -> None:
        if " /api/" not in head.partition("\r\n")[0]:
            writer.write(ok(body, "Content-Type: image/png"))
            return
        results = json.dumps({"resultUrls": [f"http://localhost:{kie.port}/r/picture.png"]})
        data = record or {"taskId": "t", "state": "success", "resultJson": results}
        writer.write(ok(json.dumps({"code": 200, "msg": "success", "data": data}).encode()))

    kie: Origin
    async with origin(answer) as kie:
        yield kie


def file_paths(kie: Origin) -> list[str]:
    """The requested paths that are not KIE's API."""
    return [path for path in kie.paths if not path.startswith("/api/")]


@pytest.mark.parametrize("what", ACTIVE)
async def test_active_content_that_claims_to_be_a_picture_is_rejected_with_a_reason(rig: Rig, what: str) -> None:
    body, reason = ACTIVE[what]
    async with answering(body) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        generation_id = await rig.insert("t")
        visited = await rig.visit(built, generation_id)
    assert isinstance(visited.decision, Reschedule)
    assert getattr(visited.observation, "reason", "") == reason
    assert rig.names() == []
    row = await rig.books.generation(generation_id)
    assert (row["status"], row["asset_url"]) == ("queued", None)


async def test_a_picture_that_is_labelled_as_a_page_is_stored_as_a_picture(supabase_rig: Rig) -> None:
    rig = supabase_rig
    assert rig.storage is not None
    async with answering(PNG) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        visited = await rig.visit(built, await rig.insert("t"))
    assert isinstance(visited.decision, Finish)
    ((name, stored),) = rig.storage.objects.items()
    assert (stored.mime, name.endswith("_0.png")) == ("image/png", True)


DOCUMENTS = {
    "a drawing with a script": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "svg"),
    "a drawing behind its prologue": (b'<?xml version="1.0"?><!-- --><svg onload="alert(1)"/>', "svg"),
    "a document that runs": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "pdf"),
}


@pytest.mark.parametrize("what", DOCUMENTS)
async def test_a_document_that_may_hold_scripts_is_stored_under_a_type_that_no_browser_runs(
    supabase_rig: Rig, what: str
) -> None:
    rig, (body, ext) = supabase_rig, DOCUMENTS[what]
    assert rig.storage is not None
    async with answering(body) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        generation_id = await rig.insert("t")
        visited = await rig.visit(built, generation_id)
    assert isinstance(visited.decision, Finish)
    ((name, stored),) = rig.storage.objects.items()
    assert (stored.mime, name.endswith(f"_0.{ext}"), stored.read()) == ("application/octet-stream", True, body)
    mime = await rig.pool.fetchval("SELECT mime FROM reconciler.assets WHERE generation_id = $1", generation_id)
    assert mime == {"svg": "image/svg+xml", "pdf": "application/pdf"}[ext]


async def test_a_type_that_the_operator_adds_is_stored_as_a_file(supabase_rig: Rig) -> None:
    rig, matroska = supabase_rig, b"\x1a\x45\xdf\xa3\x8b\x42\x82\x88matroska" + bytes(500)
    assert rig.storage is not None
    async with answering(matroska) as kie:
        generation_id = await rig.insert("t")
        async with rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
            assert (await rig.visit(built, generation_id)).observation.reason == "type_refused"
        more = {"RECONCILER_EXTRA_TYPES": "video/x-matroska=mkv"}
        async with rig.instance(KIE_MARKET_BASE_URL=kie.url, **more) as built:
            assert isinstance((await rig.visit(built, generation_id)).decision, Finish)
    ((name, stored),) = rig.storage.objects.items()
    assert (stored.mime, stored.read()) == ("application/octet-stream", matroska)
    assert re.search(rf"/file/{generation_id}_0\.mkv$", name)


async def test_a_record_with_a_thousand_results_is_not_delivered(rig: Rig) -> None:
    many = json.dumps({"resultUrls": [f"http://localhost:9/r/{n}.png" for n in range(1000)]})
    record = {"taskId": "t", "state": "success", "resultJson": many}
    async with answering(PNG, record) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        generation_id = await rig.insert("t")
        visited = await rig.visit(built, generation_id)
    assert isinstance(visited.decision, Reschedule)
    assert file_paths(kie) == []
    assert rig.names() == []
    why = await rig.pool.fetchval("SELECT why FROM reconciler.work WHERE generation_id = $1", generation_id)
    assert "1000 results" in why


@pytest.mark.parametrize("field", ["resultUrls", "failMsg", "state", "callBackUrl"])
async def test_a_record_with_nul_bytes_and_half_characters_does_no_harm(rig: Rig, field: str) -> None:
    odd = "http://localhost:9/a\0b\ud800\x1b[2J.png\n"
    record = {"taskId": "t", "state": "fail" if field == "failMsg" else "success", "failMsg": odd, "failCode": odd}
    record |= {"resultJson": json.dumps({"resultUrls": [odd]}), "param": json.dumps({"callBackUrl": odd})}
    record |= {"state": odd} if field == "state" else {}
    async with answering(PNG, record) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        generation_id = await rig.insert("t" if field != "callBackUrl" else None)
        await rig.visit(built, generation_id)
    row = await rig.books.generation(generation_id)
    assert row["status"] == ("failed" if field == "failMsg" else "queued")
    assert all(letter.isprintable() for letter in row["error"] or "")
    assert rig.names() == []


async def test_an_answer_nested_ten_thousand_levels_deep_counts_as_unreachable(rig: Rig) -> None:
    deep = b'{"code":200,"data":{"state":"success","resultJson":' + b"[" * 10_000 + b"]" * 10_000 + b"}}"
    inside = json.dumps({"code": 200, "data": {"state": "success", "resultJson": "[" * 10_000 + "]" * 10_000}})
    async with origin(ok(deep), ok(inside.encode())) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        generation_id = await rig.insert("t")
        for _ in range(2):
            assert isinstance((await rig.visit(built, generation_id)).decision, Reschedule)
    assert (await rig.books.generation(generation_id))["status"] == "queued"


async def test_a_response_header_of_ten_megabytes_counts_as_unreachable(rig: Rig) -> None:
    head = bare(b"{}", "X-Big: " + "x" * 10_000_000)
    async with origin(head) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        generation_id = await rig.insert("t")
        assert isinstance((await rig.visit(built, generation_id)).decision, Reschedule)
    assert (await rig.books.generation(generation_id))["status"] == "queued"


USERS = ["../../../etc/cron.d/x", "..", "a/b", "a\\b", "%2e%2e%2f", "x" * 400, "\u202etxt.exe", "user\nid", "-rf", " "]


async def test_a_user_id_of_strange_characters_gets_a_path_of_plain_letters(dsn: str, tmp_path: Path) -> None:
    async with opened_rig(dsn, tmp_path) as rig:
        await rig.pool.execute("ALTER TABLE public.generations DROP COLUMN user_id CASCADE")
        await rig.pool.execute("ALTER TABLE public.generations ADD user_id text")
        ids = [await rig.insert(rig.kie.add_task(), user_id=user) for user in USERS]
        async with rig.instance() as built:
            for generation_id in ids:
                await rig.visit(built, generation_id)
                await rig.proves(generation_id)
        names = rig.names()
    assert len(names) == len(USERS)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/image/[0-9a-f-]{36}_0\.png", name) for name in names)


LONG_TEXTS = {
    "the reason of a failure": {"state": "fail", "failMsg": "x" * 490 + f" {KEY} " + "y " * 9000, "failCode": "7"},
    "the code of a failure": {"state": "fail", "failMsg": "no", "failCode": "x" * 50 + f" {KEY}"},
    "an unknown state": {"state": "x" * 190 + f" {KEY}"},
}


@pytest.mark.parametrize("what", LONG_TEXTS)
async def test_no_part_of_a_key_is_kept_where_a_long_text_is_cut(rig: Rig, what: str) -> None:
    record = {"taskId": "t", **LONG_TEXTS[what]}
    async with answering(PNG, record) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url, KIE_API_KEY=KEY) as built:
        generation_id = await rig.insert("t")
        with capture_logs() as lines:
            visited = await rig.visit(built, generation_id)
    why = await rig.pool.fetchval("SELECT why FROM reconciler.work WHERE generation_id = $1", generation_id)
    error = (await rig.books.generation(generation_id))["error"]
    kept = f"{lines} {visited} {why} {error}"
    assert KEY[:4] not in kept
    assert max(map(len, (why or "", error or ""))) < 600


OTHER_TASKS = {
    "a success": {"state": "success", "resultJson": '{"resultUrls": ["http://localhost:9/r/other.png"]}'},
    "a failure": {"state": "fail", "failMsg": "no luck", "failCode": "500"},
}


@pytest.mark.parametrize("what", OTHER_TASKS)
async def test_an_answer_about_another_task_changes_nothing(rig: Rig, what: str) -> None:
    record = {"taskId": "others", **OTHER_TASKS[what]}
    async with answering(PNG, record) as kie, rig.instance(KIE_MARKET_BASE_URL=kie.url) as built:
        generation_id = await rig.insert("t")
        visited = await rig.visit(built, generation_id)
        counted = built.metrics.failures.labels("ask", "other_task")._value.get()
        await rig.visit(built, generation_id)
    assert ["connection: close" in head.lower() for head in kie.heads] == [False, True]
    assert isinstance(visited.decision, Reschedule)
    assert visited.observation == Unreachable("other_task", "the record is of others")
    assert (await rig.books.generation(generation_id))["status"] == "queued"
    assert (file_paths(kie), rig.names(), counted) == ([], [], 1)
