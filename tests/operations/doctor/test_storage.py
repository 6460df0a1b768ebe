"""What `doctor` says of the bucket, and how its probe fares; the probe never stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reconciler.operations.doctor import NAMES
from reconciler.operations.doctor import storage as judge
from reconciler.operations.doctor.storage import BucketRules, BucketUse
from testkit.rows import add, keep, store
from testkit.standins.storage import Bucket, Fault
from testkit.waiting import until
from tests.operations.doctor.installation import Surgery, amiss, pooled

MIB = 1 << 20
PROBE = ("upload", "public_read", "delete")


async def test_the_probe_is_stored_read_by_a_stranger_and_gone(shared: Surgery) -> None:
    assert amiss(await shared.look()) == {}
    written = {name for name in shared.storage.history if "/_doctor/" in name}
    assert len(written) == 1
    assert shared.storage.requests["public"] == 1
    assert shared.storage.objects == {}


async def test_a_missing_bucket_is_one_fail_and_nothing_is_tried_in_it(shared: Surgery) -> None:
    checks = await shared.look(RECONCILER_STORAGE_BUCKET="elsewhere")
    assert amiss(checks) == {"bucket": "FAIL", **dict.fromkeys(("bucket_rules", *PROBE), "warn")}
    assert "RECONCILER_STORAGE_BUCKET" in checks["bucket"].do
    assert checks["upload"].says == "not looked at: the bucket cannot be used"
    assert not shared.storage.history


async def test_a_private_bucket_fails_where_strangers_read(shared: Surgery) -> None:
    shared.storage.buckets["generations"].public = False
    checks = await shared.look()
    assert amiss(checks) == {"bucket": "FAIL", "public_read": "FAIL"}
    assert checks["public_read"].says.endswith("the answer is 400")
    assert checks["bucket"].do == "UPDATE storage.buckets SET public = true WHERE id = 'generations';"
    assert shared.storage.objects == {}


async def test_a_key_that_storage_rejects_is_told_without_it(shared: Surgery) -> None:
    checks = await shared.look(SUPABASE_SERVICE_ROLE_KEY="a-key-of-nobody")
    assert checks["bucket"].word == "FAIL"
    assert "SUPABASE_SERVICE_ROLE_KEY" in checks["bucket"].do
    assert "a-key-of-nobody" not in repr(checks)


@pytest.mark.parametrize(
    ("rules", "word", "told"),
    [
        (BucketRules(("image/*",)), "FAIL", "every audio, every video"),
        (BucketRules(("image/*", "audio/*", "video/mp4")), "warn", "video/webm"),
        (BucketRules(("image/*", "audio/*", "video/*")), "ok", "any size"),
        (BucketRules(size=20 * MIB), "warn", "20.0 MiB"),
        (BucketRules(size=50 * MIB), "ok", "50.0 MiB"),
        (BucketRules(size=10), "warn", "10 bytes"),
    ],
)
def test_what_the_bucket_takes_is_held_against_every_kind(rules: BucketRules, word: str, told: str) -> None:
    check = judge.bucket_rules(rules, BucketUse(), "generations")
    assert (check.word, told in check.says, bool(check.do)) == (word, True, word != "ok")


async def test_only_the_kinds_in_use_count_and_what_was_stored_counts_most(shared: Surgery, rows_dsn: str) -> None:
    shared.storage.buckets["generations"] = Bucket(allowed_mime_types=["image/*"], file_size_limit=15 * MIB)
    async with pooled(rows_dsn) as pool:
        ended = await add(pool, "success", kind="image")
        assert (await shared.look())["bucket_rules"].word == "ok"
        await keep(pool, ended, delivered_at_in=-60)
        await store(pool, ended, [16 * MIB])
        check = (await shared.look())["bucket_rules"]
        assert (check.word, "16.0 MiB" in check.says) == ("FAIL", True)
        shared.storage.buckets["generations"] = Bucket(allowed_mime_types=["image/jpeg"])
        check = (await shared.look())["bucket_rules"]
        assert (check.word, "image/png" in check.says) == ("FAIL", True)
        assert "'image/jpeg'" in check.do


def test_the_probe_pretends_to_be_what_the_bucket_takes() -> None:
    assert [judge.probe_type(BucketRules(types)) for types in (("video/*",), ("audio/mpeg", "x/y"), None)] == [
        "video/mp4", "audio/mpeg", "image/png",
    ]  # fmt: skip


@pytest.mark.parametrize("fault", [Fault("lost"), Fault("error"), Fault("html", status=503)])
async def test_a_probe_whose_fate_is_unknown_is_removed_all_the_same(shared: Surgery, fault: Fault) -> None:
    shared.storage.faults.add("put", fault, times=9)
    checks = await shared.look(within=5)
    assert checks["upload"].word in ("ok", "FAIL")
    assert shared.storage.requests["remove"] >= 1
    assert shared.storage.objects == {}


async def test_a_probe_that_is_not_removed_at_once_is_removed_at_the_next_try(shared: Surgery) -> None:
    shared.storage.faults.add("remove", Fault("html", status=503), times=2)
    assert amiss(await shared.look()) == {}
    assert shared.storage.objects == {}


async def test_a_probe_that_cannot_be_removed_is_told_with_its_path(shared: Surgery) -> None:
    shared.storage.faults.add("remove", Fault("html", status=503), times=9)
    check = (await shared.look())["delete"]
    (left,) = shared.storage.objects
    assert (check.word, left.partition("/")[2] in check.do) == ("FAIL", True)


async def test_whoever_stops_a_look_midway_leaves_no_probe(shared: Surgery) -> None:
    shared.storage.faults.add("public", Fault("stall"))
    looking = asyncio.create_task(shared.look())
    await until(lambda: shared.storage.requests["public"], what="the stranger's reading")
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert shared.storage.history
    assert shared.storage.objects == {}


async def test_a_storage_that_is_silent_holds_nothing_up_for_longer_than_its_time(shared: Surgery) -> None:
    shared.storage.faults.add("bucket", Fault("stall"))
    checks = await shared.look(within=0.5)
    assert (checks["bucket"].word, checks["bucket"].says) == ("FAIL", "no answer within 0.5 s")
    assert tuple(checks) == NAMES


async def test_a_folder_needs_the_daemon_to_be_read_from(shared: Surgery, tmp_path: Path) -> None:
    local = {"RECONCILER_STORAGE_BACKEND": "local", "RECONCILER_STORAGE_LOCAL_DIR": str(tmp_path / "files")}
    checks = await shared.look(**local, RECONCILER_PUBLIC_URL="http://127.0.0.1:1")
    assert amiss(checks) == {"public_read": "warn"}
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


async def test_a_spool_that_cannot_be_written_leaves_the_probe_out(shared: Surgery, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    checks = await shared.look(RECONCILER_SPOOL_DIR=str(tmp_path / "taken" / "spool"))
    assert amiss(checks) == {"spool": "FAIL", **dict.fromkeys(PROBE, "warn")}
    assert checks["bucket"].word == "ok"
