"""The Content-Type of a stored object: its own type, or one under which no browser runs it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from reconciler.domain.object_keys import TYPES, content_type
from reconciler.errors import Permanent
from testkit.standins.storage import Bucket
from tests.storage.storing import MIB, SIZES, kit, noise

WAYS = {"one request": SIZES["memory"], "resumable": 7 * MIB}


@pytest.mark.parametrize("size", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("mime", "stored_as"),
    [
        ("image/png", "image/png"),
        ("image/svg+xml", "application/octet-stream"),
        ("application/pdf", "application/octet-stream"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("application/json", "application/json"),
        ("video/x-matroska", "application/octet-stream"),
    ],
)
async def test_an_object_is_stored_and_served_under_a_type_that_no_browser_runs(
    tmp_path: Path, mime: str, stored_as: str, size: int
) -> None:
    path = "user-1/file/generation-1_0.bin"
    async with kit(tmp_path) as stage, httpx.AsyncClient(verify=False, trust_env=False) as stranger:
        spool = await stage.spool(noise(size))
        await stage.put(spool, path=path, mime=mime)
        answer = await stranger.get(stage.store.address(path))
        await stage.prove(spool, path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, stored_as)
    assert answer.content == noise(size)


async def test_a_bucket_is_asked_for_the_type_under_which_an_object_is_stored(tmp_path: Path) -> None:
    rules = Bucket(allowed_mime_types=["application/octet-stream", "text/plain"])
    async with kit(tmp_path, bucket=rules) as stage:
        spool = await stage.spool(b"words")
        await stage.put(spool, mime="image/svg+xml")
        with pytest.raises(Permanent, match="does not accept text/plain; charset=utf-8") as caught:
            await stage.put(spool, mime="text/plain")
    assert caught.value.code == "bucket_refuses_type"
    assert "add text/plain; charset=utf-8" in caught.value.hint


async def test_a_bucket_that_lists_the_types_as_doctor_says_takes_every_one(tmp_path: Path) -> None:
    listed = sorted({content_type(mime) for mime in TYPES})
    async with kit(tmp_path, bucket=Bucket(allowed_mime_types=listed)) as stage:
        spool = await stage.spool(b"anything")
        for mime in TYPES:
            await stage.put(spool, mime=mime)
