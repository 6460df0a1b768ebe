"""What storage said is kept in the error: its words without secrets, the status, its own code, host and port."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.demo.embedded_postgres import free_port
from reconciler.errors import Config, Permanent, ReconcilerError, Transient
from reconciler.net.failures import server_name
from reconciler.storage.errors import StorageAnswer, to_error
from testkit.standins.storage import Bucket, Fault
from tests.storage.storing import SIZES, Kit, connected, kit, noise

BIG = 7 * (1 << 20)


async def refused(world: Kit, size: int = SIZES["memory"]) -> ReconcilerError:
    with pytest.raises((Transient, Permanent)) as caught:
        await world.put(await world.spool(noise(size)))
    return caught.value


@pytest.mark.parametrize("size", [SIZES["memory"], BIG], ids=["raw", "tus"])
async def test_a_refused_size_keeps_the_servers_sentence_status_and_host(tmp_path: Path, size: int) -> None:
    async with kit(tmp_path) as world:
        await world.store.check()
        world.server.buckets["generations"] = Bucket(file_size_limit=10)
        error = await refused(world, size)
        place = server_name(world.server.url)
    words = "Maximum size exceeded" if size == BIG else "The object exceeded the maximum allowed size"
    assert str(error).startswith(f"storage refuses the size: {words} (HTTP 413")
    assert str(error).endswith(f", {place})")
    assert ("EntityTooLarge" in str(error)) == (size != BIG), "only the REST routes send a code"


async def test_a_rejected_key_and_a_missing_bucket_keep_the_servers_code(tmp_path: Path) -> None:
    async with kit(tmp_path, name="elsewhere") as world:
        place = server_name(world.server.url)
        with pytest.raises(Config) as missing:
            await world.store.check()
        store = connected(world.server.url, "sb_secret_abc")
        with pytest.raises(Config) as rejected:
            await store.check()
        await store.close()
    assert str(missing.value).endswith(f"Bucket not found (HTTP 404 Bucket not found, {place})")
    assert f", {place})" in str(rejected.value)
    assert "sb_secret_abc" not in str(rejected.value)


@pytest.mark.parametrize("operation", ["put", "info", "bucket"])
async def test_a_gateways_page_is_kept_as_its_title(tmp_path: Path, operation: str) -> None:
    async with kit(tmp_path) as world:
        world.server.faults.add(operation, Fault("html", status=502), times=2)
        with pytest.raises(Transient) as caught:
            await (world.store.check() if operation == "bucket" else refuse_once(world, operation))
        place = server_name(world.server.url)
    assert str(caught.value) == f"storage failed: 502 (HTTP 502, {place})"


async def refuse_once(world: Kit, operation: str) -> None:
    if operation == "put":
        await world.put(await world.spool(b"some bytes"))
    else:
        await world.store.stat("user/image/one.png")


@pytest.mark.parametrize("operation", ["check", "stat", "put"])
async def test_a_storage_where_nobody_listens_is_said_to_refuse_with_its_place(tmp_path: Path, operation: str) -> None:
    port = free_port()
    async with kit(tmp_path) as world:
        store = connected(f"http://127.0.0.1:{port}", world.server.key)
        world.store = store
        with pytest.raises(Transient) as away:
            await (store.check() if operation == "check" else refuse_once(world, operation))
        await store.close()
    assert str(away.value) == f"storage is away: 127.0.0.1:{port} refuses the connection"
    assert away.value.code == "network"
    assert "SUPABASE_URL" in away.value.hint


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            StorageAnswer(
                "544", "The connection to the database timed out", error_code="DatabaseTimeout", place="s.co"
            ),
            "storage failed: The connection to the database timed out (HTTP 544 DatabaseTimeout, s.co)",
        ),
        (
            StorageAnswer("429", "Too many connections", error_code="SlowDown", place="s.co"),
            "storage is busy: Too many connections (HTTP 429 SlowDown, s.co)",
        ),
        (StorageAnswer("540", "", place="s.co"), "storage failed: (HTTP 540, s.co)"),
        (
            StorageAnswer("402", "exceed_storage_size_quota", place="s.co"),
            "storage refused: exceed_storage_size_quota (HTTP 402, s.co)",
        ),
    ],
)
def test_the_sentence_holds_what_was_said(answer: StorageAnswer, said: str) -> None:
    assert str(to_error(answer)) == said


def test_a_code_that_holds_a_secret_is_not_shown() -> None:
    shown = str(to_error(StorageAnswer("500", "x", error_code="token=sb_secret_do_not_show")))
    assert "do_not_show" not in shown
