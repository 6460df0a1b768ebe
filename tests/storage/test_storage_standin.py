"""The stand-in answers the supabase client as the real server does."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest
from storage3.exceptions import StorageApiError
from supabase import AsyncClientOptions, acreate_client

from reconciler.media.spool import SpoolDirectory
from testkit.standins.storage import Bucket, Fault, SupabaseStorage
from tests.storage.storing import connected, filled, kit, noise, put

ROOT = Path(__file__).resolve().parents[2]
BUCKETS = {
    "generations": Bucket(),
    "pictures": Bucket(allowed_mime_types=["image/*"], file_size_limit=1000),
    "private": Bucket(public=False),
}
PNG = {"content-type": "image/png"}


@pytest.fixture
async def server() -> AsyncIterator[SupabaseStorage]:
    async with SupabaseStorage(BUCKETS) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(verify=False) as http:
        yield http


async def storage(server: SupabaseStorage, http: httpx.AsyncClient, key: str | None = None) -> Any:
    return (await acreate_client(server.url, key or server.key, AsyncClientOptions(httpx_client=http))).storage


async def raised(call: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(StorageApiError) as caught:
        await call
    return str(caught.value.status), caught.value.code


async def test_errors_carry_their_status_as_a_string_in_an_http_400(
    server: SupabaseStorage, http: httpx.AsyncClient
) -> None:
    supabase = await storage(server, http)
    files, pictures = supabase.from_("generations"), supabase.from_("pictures")
    await files.upload("a/b.png", b"bytes", PNG)
    assert await raised(files.upload("a/b.png", b"bytes", PNG)) == ("409", "Duplicate")
    assert await raised(supabase.from_("none").upload("a/b", b"")) == ("404", "Bucket not found")
    assert await raised(supabase.get_bucket("none")) == ("404", "Bucket not found")
    assert await raised(files.info("a/c")) == ("404", "not_found")
    assert await raised(files.download("a/c")) == ("404", "not_found")
    assert await raised(pictures.upload("a/b", b"0" * 1001, PNG)) == ("413", "Payload too large")
    assert await raised(pictures.upload("a/b", b"0")) == ("415", "invalid_mime_type")
    assert await raised(files.upload("a/ü.png", b"0", PNG)) == ("400", "InvalidKey")
    assert await raised(files.remove([])) == ("400", "Error")
    answer = await http.get(f"{server.url}/storage/v1/object/info/generations/a/b.png", headers={"apikey": server.key})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidRequest")


async def test_keys_are_checked_as_the_server_checks_them(server: SupabaseStorage, http: httpx.AsyncClient) -> None:
    for key, message in (
        ("sb_secret_abc", "Invalid Compact JWS"),
        (server.token("service_role", exp=1), '"exp" claim timestamp check failed'),
        (server.token("service_role", nbf=int(time.time()) + 60), '"exp" claim timestamp check failed'),
        (SupabaseStorage(secret="another" * 8).key, "signature verification failed"),
    ):
        supabase = await storage(server, http, key)
        with pytest.raises(StorageApiError) as caught:
            await supabase.from_("generations").info("a/b")
        assert (caught.value.status, caught.value.message) == ("403", message)
    stranger = await storage(server, http, server.token("stranger"))
    assert await raised(stranger.from_("generations").info("a/b")) == ("500", "DatabaseError")
    anon = (await storage(server, http, server.token("anon"))).from_("generations")
    assert await raised(anon.upload("a/b", b"0")) == ("403", "Unauthorized")
    assert await raised(anon.info("a/b")) == ("404", "not_found")
    assert await anon.list("a") == []
    assert await anon.remove(["a/b"]) == []


async def test_an_object_is_described_listed_shown_and_removed(
    server: SupabaseStorage, http: httpx.AsyncClient
) -> None:
    files = (await storage(server, http)).from_("generations")
    await files.upload("a/b/c.png", b"0123456789", {**PNG, "metadata": {"sha256": "x"}})
    found = await files.info("a/b/c.png")
    assert (found["size"], found["content_type"], found["metadata"]) == (10, "image/png", {"sha256": "x"})
    assert found["etag"] == '"781e5e245d69b566979b86e28d23f2c7"'
    assert [(child["name"], child["id"] is None) for child in await files.list("a")] == [("b", True)]
    assert [child["name"] for child in await files.list("a/b")] == ["c.png"]
    assert await files.download("a/b/c.png") == b"0123456789"
    assert [gone["name"] for gone in await files.remove(["a/b/c.png", "a/b/d.png"])] == ["a/b/c.png"]
    assert await files.exists("a/b/c.png") is False


async def test_an_overwrite_keeps_the_id_and_changes_the_version(
    server: SupabaseStorage, http: httpx.AsyncClient
) -> None:
    files = (await storage(server, http)).from_("generations")
    await files.upload("a/b", b"one", {**PNG, "upsert": "true"})
    first = await files.info("a/b")
    await files.upload("a/b", b"two", {**PNG, "upsert": "true"})
    second = await files.info("a/b")
    assert first["id"] == second["id"]
    assert first["version"] != second["version"]
    assert len(server.twice()["generations/a/b"]) == 2


@pytest.mark.parametrize(
    ("range_header", "status", "body", "where"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=0-1,3-4", 416, b"", "bytes */10"),
        ("junk", 416, b"", "bytes */10"),
    ],
)
async def test_a_public_object_is_served_with_ranges(
    server: SupabaseStorage, http: httpx.AsyncClient, range_header: str, status: int, body: bytes, where: str
) -> None:
    files = (await storage(server, http)).from_("generations")
    await files.upload("a/b.png", b"0123456789", PNG)
    url = await files.get_public_url("a/b.png")
    answer = await http.get(url, headers={"Range": range_header})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (status, body, where)


async def test_a_public_object_has_its_md5_as_etag_and_a_missing_one_is_http_400(
    server: SupabaseStorage, http: httpx.AsyncClient
) -> None:
    files = (await storage(server, http)).from_("generations")
    await files.upload("a/b.png", b"0123456789", PNG)
    url = await files.get_public_url("a/b.png")
    whole = await http.get(url)
    assert whole.headers["etag"] == '"781e5e245d69b566979b86e28d23f2c7"'
    assert whole.headers["cache-control"] == "max-age=3600"
    assert (await http.get(url, headers={"If-None-Match": whole.headers["etag"]})).status_code == 304
    for missing in (url + "x", url.replace("generations", "private")):
        answer = await http.get(missing)
        assert (answer.status_code, answer.json()["statusCode"]) == (400, "404")
        assert (await http.head(missing)).status_code == 400


async def tus(http: httpx.AsyncClient, server: SupabaseStorage, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {server.key}", "Tus-Resumable": "1.0.0", **more.pop("headers", {})}
    return await http.request(method, f"{server.url}/storage/v1/upload/resumable{path}", headers=headers, **more)


NAMED = "bucketName Z2VuZXJhdGlvbnM=,objectName YS9i"
SEND = {"Content-Type": "application/offset+octet-stream"}


async def test_resumable_uploads_behave_like_the_real_ones(server: SupabaseStorage, http: httpx.AsyncClient) -> None:
    create = {"Upload-Length": "10", "Upload-Metadata": NAMED}
    created = await tus(http, server, "POST", "", headers=create)
    assert created.status_code == 201
    one = "/" + created.headers["location"].rpartition("/")[2]
    assert created.headers["location"].startswith("https://")
    server.resumable.strict = False
    part = await tus(http, server, "PATCH", one, headers={**SEND, "Upload-Offset": "0"}, content=b"01234")
    assert (part.status_code, part.headers["upload-offset"]) == (204, "5")
    wrong = await tus(http, server, "PATCH", one, headers={**SEND, "Upload-Offset": "0"}, content=b"01234")
    assert (wrong.status_code, wrong.text) == (409, "Upload-Offset conflict")
    beyond = await tus(http, server, "PATCH", one, headers={**SEND, "Upload-Offset": "5"}, content=b"0123456")
    assert beyond.status_code == 413
    untyped = await tus(http, server, "PATCH", one, headers={"Upload-Offset": "5"}, content=b"56789")
    assert untyped.status_code == 400
    last = await tus(http, server, "PATCH", one, headers={**SEND, "Upload-Offset": "5"}, content=b"56789")
    assert (last.status_code, last.headers["tus-complete"]) == (204, "1")
    assert server.objects["generations/a/b"].read() == b"0123456789"
    after = await tus(http, server, "HEAD", one)
    assert (after.status_code, after.headers["upload-offset"], "tus-complete" in after.headers) == (200, "10", False)
    again = await tus(http, server, "POST", "", headers=create)
    assert (again.status_code, again.text) == (409, "The resource already exists")
    assert (await tus(http, server, "DELETE", one)).status_code == 204
    assert (await tus(http, server, "HEAD", one)).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Metadata": "bucketName bm9uZQ==,objectName YS9i"}, 404),
        ({"Upload-Metadata": "objectName YS9i"}, 400),
        ({"Upload-Metadata": "bucketName cGljdHVyZXM=,objectName YS9i", "Upload-Length": "1001"}, 413),
        ({"Upload-Metadata": "bucketName cGljdHVyZXM=,objectName YS9i,contentType dmlkZW8vbXA0"}, 415),
        ({"Upload-Metadata": NAMED, "Tus-Resumable": "0.2"}, 412),
        ({"Upload-Metadata": NAMED, "Authorization": "Bearer junk"}, 400),
    ],
)
async def test_resumable_uploads_answer_with_their_real_status(
    server: SupabaseStorage, http: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    answer = await tus(http, server, "POST", "", headers={"Upload-Length": "10", **headers})
    assert answer.status_code == status


async def test_pieces_are_six_mebibytes_except_for_the_last(server: SupabaseStorage, http: httpx.AsyncClient) -> None:
    created = await tus(http, server, "POST", "", headers={"Upload-Length": str(8 << 20), "Upload-Metadata": NAMED})
    one = "/" + created.headers["location"].rpartition("/")[2]
    short = await tus(http, server, "PATCH", one, headers={**SEND, "Upload-Offset": "0"}, content=noise(1 << 20))
    assert short.status_code == 400
    right = await tus(http, server, "PATCH", one, headers={**SEND, "Upload-Offset": "0"}, content=noise(6 << 20))
    assert right.status_code == 204


async def test_a_server_without_a_gateway_refuses_early_and_reads_no_further(http: httpx.AsyncClient) -> None:
    async with SupabaseStorage(direct=True) as server:
        files = (await storage(server, httpx.AsyncClient(timeout=0.5))).from_("generations")
        await files.upload("a/b", b"0", PNG)
        with pytest.raises(httpx.WriteTimeout):
            await files.upload("a/b", noise(40 << 20), PNG)
        await files._client.aclose()


async def test_a_large_object_is_kept_on_disk_and_deleted_with_the_server(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        await world.put(await world.spool(noise(9 << 20)))
        (thing,) = world.server.objects.values()
        assert isinstance(thing.content, Path)
        assert thing.content.exists()
    assert not thing.content.exists()


async def test_a_planned_fault_occurs_as_often_as_planned_and_only_at_its_path(
    server: SupabaseStorage, http: httpx.AsyncClient
) -> None:
    files = (await storage(server, http)).from_("generations")
    server.faults.add("put", Fault("html", status=503), times=2, path="a/b")
    await files.upload("a/c", b"0", PNG)
    for _ in range(2):
        assert (await raised(files.upload("a/b", b"0", PNG)))[0] == "503"
    await files.upload("a/b", b"0", PNG)
    assert server.faults.left == 0


async def test_it_runs_as_its_own_process_and_reports_what_was_written(tmp_path: Path, http: httpx.AsyncClient) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "testkit.standins.storage", "--bucket", "generations"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url, key = [(await process.stdout.readline()).decode().strip() for _ in range(2)]
        store = connected(url, key)
        await store.check()
        async with filled(SpoolDirectory(tmp_path, 1 << 20), b"bytes") as spool:
            await put(store, spool)
        await store.close()
        written = (await http.get(f"{url}/standin/history")).json()["written"]
        assert {name: len(all_) for name, all_ in written.items()} == {"generations/user-1/image/generation-1_0.png": 1}
    finally:
        process.terminate()
        await process.wait()
    assert process.returncode == 0
