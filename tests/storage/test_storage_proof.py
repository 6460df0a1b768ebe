"""What counts as proof that an object is stored."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from reconciler.errors import Permanent, Transient
from reconciler.storage.proof import plain_md5, prove
from reconciler.storage.store import ObjectStat
from testkit.standins.storage import Fault
from tests.storage.storing import NAME, PATH, SIZES, Kit, kit, noise


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Kit]:
    async with kit(tmp_path) as world:
        yield world


async def test_an_etag_that_is_the_md5_is_proof_without_reading(world: Kit) -> None:
    spool = await world.spool(noise(1000))
    await world.put(spool)
    receipt = await world.prove(spool)
    assert receipt.verified_by == "etag-md5"
    assert receipt.version == world.server.objects[NAME].version
    assert world.server.requests["read"] == 0


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_an_etag_of_parts_is_no_proof_so_the_object_is_read_back(world: Kit, size: int) -> None:
    world.server.shelf.etag_of_parts = True
    spool = await world.spool(noise(size))
    await world.put(spool)
    receipt = await world.prove(spool)
    assert receipt.verified_by == "read-back-sha256"
    assert receipt.version == world.server.objects[NAME].version
    assert world.server.requests["read"] == 1


async def test_metadata_that_we_sent_proves_nothing_about_the_bytes(world: Kit) -> None:
    world.server.shelf.etag_of_parts = True
    spool = await world.spool(noise(1000))
    await world.put(spool)
    thing = world.server.objects[NAME]
    thing.content = noise(1000, seed=2)
    assert thing.metadata["sha256"] == spool.sha256
    with pytest.raises(Transient) as unproven:
        await world.prove(spool)
    assert unproven.value.code == "proof_failed"


async def test_an_encrypting_backend_whose_etag_looks_like_an_md5_is_read_back(world: Kit) -> None:
    spool = await world.spool(noise(1000))
    await world.put(spool)
    world.server.objects[NAME].etag = f'"{"0" * 32}"'
    assert (await world.prove(spool)).verified_by == "read-back-sha256"


async def test_a_shorter_object_is_no_proof_and_is_not_read(world: Kit) -> None:
    spool = await world.spool(noise(1000))
    await world.put(spool)
    with pytest.raises(Transient):
        await prove(world.store, PATH, size=1001, sha256=spool.sha256, md5=spool.md5)
    assert world.server.requests["read"] == 0


async def test_a_page_in_place_of_the_object_is_no_proof(world: Kit) -> None:
    world.server.shelf.etag_of_parts = True
    spool = await world.spool(noise(1000))
    await world.put(spool)
    world.server.faults.add("read", Fault("garbage"))
    with pytest.raises(Transient) as unproven:
        await world.prove(spool)
    assert unproven.value.code == "proof_failed"


async def test_an_interrupted_read_back_is_a_transient_error(world: Kit) -> None:
    world.server.shelf.etag_of_parts = True
    spool = await world.spool(noise(3 << 20))
    await world.put(spool)
    world.server.faults.add("read", Fault("cut", after=1_500_000))
    with pytest.raises(Transient) as broken:
        await world.prove(spool)
    assert broken.value.code == "network"
    await world.prove(spool)


class Shifting:
    """A store whose object is replaced or removed while it is read."""

    def __init__(self, stats: list[ObjectStat | None], body: bytes | None) -> None:
        self._stats = iter(stats)
        self._body = body

    async def stat(self, path: str) -> ObjectStat | None:
        return next(self._stats)

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        if self._body is None:
            raise Permanent("gone", code="object_missing")
        yield self._body


@pytest.mark.parametrize("after", [None, ObjectStat(5, None, "v2", None, {})], ids=["removed", "replaced"])
async def test_an_object_that_changes_while_it_is_read_is_not_proven(after: ObjectStat | None) -> None:
    sha256 = hashlib.sha256(b"bytes").hexdigest()
    store = Shifting([ObjectStat(5, None, "v1", None, {}), after], b"bytes")
    with pytest.raises(Transient) as unproven:
        await prove(store, PATH, size=5, sha256=sha256, md5="")  # type: ignore[arg-type]
    assert unproven.value.code == "proof_failed"


async def test_an_object_that_disappears_before_it_is_read_is_not_proven() -> None:
    store = Shifting([ObjectStat(5, None, "v1", None, {})], None)
    with pytest.raises(Transient) as unproven:
        await prove(store, PATH, size=5, sha256="", md5="")  # type: ignore[arg-type]
    assert unproven.value.code == "proof_failed"


@pytest.mark.parametrize(
    ("etag", "md5"),
    [
        ('"0cc175b9c0f1b6a831c399e269772661"', "0cc175b9c0f1b6a831c399e269772661"),
        ('W/"0CC175B9C0F1B6A831C399E269772661"', "0cc175b9c0f1b6a831c399e269772661"),
        ('"0cc175b9c0f1b6a831c399e269772661-2"', None),
        ('"0cc175b9"', None),
        ("", None),
        (None, None),
    ],
)
def test_an_etag_counts_as_an_md5_only_in_its_plain_form(etag: str | None, md5: str | None) -> None:
    assert plain_md5(etag) == md5
