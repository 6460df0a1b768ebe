"""The check of bucket and key at the start, and the error for each refusal."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from reconciler.errors import Config, Permanent, Transient
from reconciler.net.http_clients import storage_session
from reconciler.storage.errors import StorageAnswer, to_error
from reconciler.storage.supabase import SupabaseStore
from testkit.standins.storage import Bucket, Fault, SupabaseStorage
from tests.storage.storing import PATH, connected, kit


async def test_a_public_bucket_and_a_service_key_are_fine(tmp_path: Path) -> None:
    async with kit(tmp_path) as world:
        await world.store.check()


async def test_a_missing_bucket_is_a_configuration_error(tmp_path: Path) -> None:
    async with kit(tmp_path, name="elsewhere") as world:
        with pytest.raises(Config) as wrong:
            await world.store.check()
        assert wrong.value.code == "bucket_missing"
        assert "RECONCILER_STORAGE_BUCKET" in wrong.value.hint


async def test_a_private_bucket_is_a_configuration_error(tmp_path: Path) -> None:
    async with kit(tmp_path, bucket=Bucket(public=False)) as world:
        with pytest.raises(Config) as wrong:
            await world.store.check()
        assert wrong.value.code == "bucket_private"


@pytest.mark.parametrize("why", ["expired", "another project's", "sb_secret_abc", "junk"])
async def test_a_key_that_storage_rejects_is_a_configuration_error(why: str) -> None:
    async with SupabaseStorage() as server, SupabaseStorage() as another:
        key = {
            "expired": server.token("service_role", exp=int(time.time()) - 10),
            "another project's": another.key,
        }.get(why, why)
        store = connected(server.url, key)
        with pytest.raises(Config) as wrong:
            await store.check()
        await store.close()
        assert wrong.value.code == "storage_key_rejected"
        assert "SUPABASE_SERVICE_ROLE_KEY" in wrong.value.hint


async def test_an_anon_key_sees_no_bucket_and_the_hint_says_so() -> None:
    async with SupabaseStorage() as server:
        store = connected(server.url, server.token("anon"))
        with pytest.raises(Config) as wrong:
            await store.check()
        await store.close()
        assert "service_role" in wrong.value.hint


async def test_an_address_of_another_server_is_a_configuration_error() -> None:
    async with SupabaseStorage() as server:
        store = connected(f"{server.url}/elsewhere", server.key)
        with pytest.raises(Config) as wrong:
            await store.check()
        await store.close()
        assert "SUPABASE_URL" in wrong.value.hint


@pytest.mark.parametrize(
    "fault", [Fault("html", status=503), Fault("error"), Fault("garbage"), Fault("html", status=404)]
)
async def test_a_failing_storage_is_no_configuration_error(tmp_path: Path, fault: Fault) -> None:
    async with kit(tmp_path) as world:
        world.server.faults.add("bucket", fault)
        with pytest.raises(Transient):
            await world.store.check()
        await world.store.check()


@pytest.mark.parametrize(
    ("url", "key"), [("", "key"), ("not an address", "key"), ("http://127.0.0.1:1", ""), ("http://127.0.0.1:1", "a\nb")]
)
async def test_invalid_settings_are_refused_at_once(url: str, key: str) -> None:
    async with storage_session(slots=1) as session, httpx.AsyncClient() as client:
        with pytest.raises(Config) as wrong:
            SupabaseStore(url, key, bucket="generations", session=session, client=client)
        assert key not in str(wrong.value) or not key or key == "key"


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_address_is_the_one_that_storage3_gives_and_a_browser_can_open(tmp_path: Path, slash: str) -> None:
    async with kit(tmp_path) as world, httpx.AsyncClient() as browser:
        store = connected(world.server.url + slash, world.server.key)
        await world.put(await world.spool(b"picture"))
        assert store.address(PATH) == await store._files.get_public_url(PATH)
        answer = await browser.get(store.address(PATH))
        assert (answer.status_code, answer.content) == (200, b"picture")
        assert answer.headers["content-type"] == "image/png"
        await store.check()
        await store.close()


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (StorageAnswer("403", "Invalid Compact JWS"), Permanent, "storage_key_rejected"),
        (StorageAnswer("403", "signature verification failed"), Permanent, "storage_key_rejected"),
        (StorageAnswer("403", '"exp" claim timestamp check failed'), Permanent, "storage_key_rejected"),
        (StorageAnswer("401", "Invalid API key"), Permanent, "storage_key_rejected"),
        (StorageAnswer("403", "new row violates row-level security policy"), Permanent, "storage_denied"),
        (StorageAnswer("403", "<html>blocked by a firewall</html>", page=True), Transient, "not_json"),
        (StorageAnswer("413", "The object exceeded the maximum allowed size"), Permanent, "bucket_refuses_size"),
        (StorageAnswer("413", "<html>", page=True), Permanent, "bucket_refuses_size"),
        (StorageAnswer("415", "mime type image/gif is not supported"), Permanent, "bucket_refuses_type"),
        (StorageAnswer("404", "Bucket not found"), Permanent, "bucket_missing"),
        (StorageAnswer("404", "Object not found"), Permanent, "object_missing"),
        (StorageAnswer("409", "The resource already exists"), Transient, "storage_refused"),
        (StorageAnswer("429", "Too many", retry_after=3), Transient, "storage_busy"),
        (StorageAnswer("500", "database error, code: 22023"), Transient, "storage_5xx"),
        (StorageAnswer("540", "project paused"), Transient, "storage_5xx"),
        (StorageAnswer("400", "something nobody has seen"), Transient, "storage_refused"),
    ],
)
def test_each_refusal_becomes_its_error(answer: StorageAnswer, kind: type[Exception], code: str) -> None:
    error = to_error(answer)
    assert isinstance(error, kind)
    assert error.code == code


def test_a_long_refusal_is_cut() -> None:
    assert len(str(to_error(StorageAnswer("400", "x" * 100_000)))) < 300
