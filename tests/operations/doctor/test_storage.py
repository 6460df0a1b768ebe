"""What `doctor` says about spool and bucket, and what happens to its probe: it is always removed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from reconciler.domain.object_keys import OCTETS, Kind
from reconciler.operations.doctor import NAMES
from reconciler.operations.doctor.storage import BucketRules, BucketUse, judge_bucket_rules, probe_type
from testkit.rows import add, keep, store
from testkit.standins.storage import Bucket, Fault
from testkit.waiting import until
from tests.operations.doctor.installation import Installation, not_ok, pooled

MIB = 1 << 20
DOCUMENTS = ("text/*", "application/*", "model/*")
PROBE_CHECKS = ("upload", "public_read", "delete")


async def test_the_probe_is_stored_read_by_a_stranger_and_removed(shared: Installation) -> None:
    assert not_ok(await shared.examine()) == {}
    written = {name for name in shared.storage.history if "/_doctor/image/probe-" in name}
    assert len(written) == 1
    assert shared.storage.requests["public"] == 1
    assert shared.storage.objects == {}


async def test_the_probe_is_stored_where_the_results_are(shared: Installation, rows_dsn: str) -> None:
    async with pooled(rows_dsn) as pool:
        for user, seconds in (("older", -90), ("newest", -60), ("unproven", -30)):
            row = await add(pool, "success", task_id=user)
            await keep(pool, row, delivered_at_in=seconds)
            await store(pool, row, [10], task_id=user, proven=user != "unproven")
            await pool.execute(
                """UPDATE reconciler.assets SET path = $1, stored_at = now() + $2 * interval '1 second'
                    WHERE generation_id = $3""",
                f"{user}/video/one_0.mp4",
                seconds,
                row,
            )
        await shared.examine()
    (written,) = shared.storage.history
    assert written.startswith("generations/newest/video/probe-")
    assert shared.storage.objects == {}


async def test_a_missing_bucket_fails_once_and_nothing_is_stored(shared: Installation) -> None:
    checks = await shared.examine(RECONCILER_STORAGE_BUCKET="elsewhere")
    assert not_ok(checks) == {"bucket": "FAIL", **dict.fromkeys(("bucket_rules", *PROBE_CHECKS), "warn")}
    assert "RECONCILER_STORAGE_BUCKET" in checks["bucket"].do
    assert checks["upload"].says == "not looked at: the bucket cannot be used"
    assert not shared.storage.history


async def test_a_private_bucket_fails_and_so_does_public_read(shared: Installation) -> None:
    shared.storage.buckets["generations"].public = False
    checks = await shared.examine()
    assert not_ok(checks) == {"bucket": "FAIL", "public_read": "FAIL"}
    assert checks["public_read"].says.endswith("the answer is 400")
    assert checks["bucket"].do == "UPDATE storage.buckets SET public = true WHERE id = 'generations';"
    assert shared.storage.objects == {}


async def test_a_key_that_storage_rejects_fails_and_is_not_printed(shared: Installation) -> None:
    checks = await shared.examine(SUPABASE_SERVICE_ROLE_KEY="a-key-of-nobody")
    assert checks["bucket"].word == "FAIL"
    assert "SUPABASE_SERVICE_ROLE_KEY" in checks["bucket"].do
    assert "a-key-of-nobody" not in repr(checks)


@pytest.mark.parametrize(
    ("rules", "word", "says"),
    [
        (BucketRules(("image/*",)), "FAIL", "every audio, every video"),
        (BucketRules(("image/*", "audio/*", "video/mp4")), "warn", "video/webm"),
        (BucketRules(("image/*", "audio/*", "video/*")), "warn", "text/plain (stored as text/plain; charset=utf-8)"),
        (BucketRules(("image/*", "audio/*", "video/*")), "warn", "pdf (stored as application/octet-stream)"),
        (BucketRules(("image/*", "audio/*", "video/*", "text/*", "application/*", "model/*")), "ok", "any size"),
        (BucketRules(("image/*", "audio/*", "video/*", "text/plain", "text/vtt", "application/*", "model/*")), "warn",
         "refuses text/plain (stored as text/plain; charset=utf-8): such a result would wait"),
        (BucketRules(("video/*", "application/octet-stream", "audio/*")), "FAIL", "refuses every image"),
        (BucketRules(size=20 * MIB), "warn", "20.0 MiB"),
        (BucketRules(size=50 * MIB), "ok", "50.0 MiB"),
        (BucketRules(size=10), "warn", "10 bytes"),
    ],
)  # fmt: skip
def test_the_rules_of_the_bucket_are_judged_against_every_kind(rules: BucketRules, word: str, says: str) -> None:
    check = judge_bucket_rules(rules, BucketUse(), "generations")
    assert (check.word, says in check.says, bool(check.do)) == (word, True, word != "ok")


async def test_only_kinds_in_use_count_and_what_was_stored_lately_must_fit(shared: Installation, rows_dsn: str) -> None:
    shared.storage.buckets["generations"] = Bucket(allowed_mime_types=["image/*", *DOCUMENTS], file_size_limit=15 * MIB)
    async with pooled(rows_dsn) as pool:
        row = await add(pool, "success", kind="image")
        assert (await shared.examine())["bucket_rules"].word == "ok"
        await keep(pool, row, delivered_at_in=-60)
        await store(pool, row, [16 * MIB])
        check = (await shared.examine())["bucket_rules"]
        assert (check.word, "16.0 MiB" in check.says) == ("FAIL", True)
        shared.storage.buckets["generations"] = Bucket(allowed_mime_types=["image/jpeg"])
        check = (await shared.examine())["bucket_rules"]
        assert (check.word, "image/png" in check.says) == ("FAIL", True)
        assert "'image/jpeg'" in check.do


async def test_a_bucket_that_refuses_words_is_told_before_the_first_ones_come(
    shared: Installation, rows_dsn: str
) -> None:
    shared.storage.buckets["generations"] = Bucket(allowed_mime_types=["image/*"])
    async with pooled(rows_dsn) as pool:
        await add(pool, "success", kind="image")
        check = (await shared.examine())["bucket_rules"]
    assert (check.word, "application/json" in check.says) == ("warn", True)
    allowed = re.findall(r"'([^']+)'", check.do.partition("WHERE")[0])
    assert judge_bucket_rules(BucketRules(tuple(allowed)), BucketUse(frozenset({Kind.IMAGE})), "b").word == "ok"


def test_words_that_were_stored_lately_and_are_refused_now_fail() -> None:
    use = BucketUse(frozenset({Kind.IMAGE}), frozenset({"text/plain", "image/svg+xml", "video/x-matroska"}))
    check = judge_bucket_rules(BucketRules(("image/*",)), use, "generations")
    assert check.word == "FAIL"
    for mime in ("image/svg+xml", "video/x-matroska"):
        assert f"{mime} (stored as application/octet-stream)" in check.says
    assert "'application/octet-stream'" in check.do


def test_the_probe_has_a_type_that_the_bucket_accepts() -> None:
    assert [probe_type(BucketRules(types)) for types in (("video/*",), ("audio/mpeg", "x/y"), (OCTETS,), None)] == [
        "video/mp4", "audio/mpeg", "image/svg+xml", "image/png",
    ]  # fmt: skip


@pytest.mark.parametrize("fault", [Fault("lost"), Fault("error"), Fault("html", status=503)])
async def test_a_probe_that_may_have_been_stored_is_removed(shared: Installation, fault: Fault) -> None:
    shared.storage.faults.add("put", fault, times=9)
    checks = await shared.examine(within=5)
    assert checks["upload"].word in ("ok", "FAIL")
    assert shared.storage.requests["remove"] >= 1
    assert shared.storage.objects == {}


async def test_the_removal_of_the_probe_is_tried_again(shared: Installation) -> None:
    shared.storage.faults.add("remove", Fault("html", status=503), times=2)
    assert not_ok(await shared.examine()) == {}
    assert shared.storage.objects == {}


async def test_a_probe_that_cannot_be_removed_fails_with_its_path(shared: Installation) -> None:
    shared.storage.faults.add("remove", Fault("html", status=503), times=9)
    check = (await shared.examine())["delete"]
    (left,) = shared.storage.objects
    assert (check.word, left.partition("/")[2] in check.do) == ("FAIL", True)


async def test_a_doctor_that_is_cancelled_leaves_no_probe(shared: Installation) -> None:
    shared.storage.faults.add("public", Fault("stall"))
    examining = asyncio.create_task(shared.examine())
    await until(lambda: shared.storage.requests["public"], what="the request of a stranger")
    examining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await examining
    assert shared.storage.history
    assert shared.storage.objects == {}


async def test_a_storage_that_does_not_answer_fails_when_the_time_is_over(shared: Installation) -> None:
    shared.storage.faults.add("bucket", Fault("stall"))
    checks = await shared.examine(within=0.5)
    assert (checks["bucket"].word, checks["bucket"].says) == ("FAIL", "no answer within 0.5 s")
    assert tuple(checks) == NAMES


async def test_local_storage_cannot_be_read_without_the_daemon(shared: Installation, tmp_path: Path) -> None:
    local = {"RECONCILER_STORAGE_BACKEND": "local", "RECONCILER_STORAGE_LOCAL_DIR": str(tmp_path / "files")}
    checks = await shared.examine(**local, RECONCILER_PUBLIC_URL="http://127.0.0.1:1")
    assert not_ok(checks) == {"public_read": "warn"}
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


async def test_without_a_spool_directory_the_probe_is_left_out(shared: Installation, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    checks = await shared.examine(RECONCILER_SPOOL_DIR=str(tmp_path / "taken" / "spool"))
    assert not_ok(checks) == {"spool": "FAIL", **dict.fromkeys(PROBE_CHECKS, "warn")}
    assert checks["bucket"].word == "ok"


@pytest.mark.parametrize(
    ("limit", "word", "says"),
    [
        (None, "ok", "any size"),
        (50 * MIB, "ok", "the project takes 50.0 MiB and refuses 100.0 MiB"),
        (50 * MIB - 1, "warn", "the project takes no object of 50.0 MiB"),
        (1000, "warn", "the project takes no object of 50.0 MiB"),
    ],
)
async def test_the_size_limit_of_the_project_is_asked_for_without_sending_a_byte(
    shared: Installation, limit: int | None, word: str, says: str
) -> None:
    shared.storage.project_limit = limit
    check = (await shared.examine())["bucket_rules"]
    assert (check.word, says in check.says) == (word, True)
    assert shared.storage.requests["patch"] == 0
    assert shared.storage.resumable.uploads == {}
    assert shared.storage.objects == {}


async def test_a_project_that_refuses_what_was_stored_lately_fails(shared: Installation, rows_dsn: str) -> None:
    async with pooled(rows_dsn) as pool:
        row = await add(pool, "success", kind="image")
        await keep(pool, row, delivered_at_in=-60)
        await store(pool, row, [60 * MIB])
        shared.storage.project_limit = 60 * MIB
        assert (await shared.examine())["bucket_rules"].word == "ok"
        shared.storage.project_limit = 60 * MIB - 1
        check = (await shared.examine())["bucket_rules"]
    assert (check.word, "60.0 MiB" in check.says, "FILE_SIZE_LIMIT" in check.do) == ("FAIL", True, True)


async def test_a_limit_that_storage_does_not_tell_is_said_and_blames_nothing(shared: Installation) -> None:
    shared.storage.faults.add("create", Fault("html", status=503))
    check = (await shared.examine())["bucket_rules"]
    assert (check.word, "size limit is not known: storage failed: 503" in check.says) == ("ok", True)
