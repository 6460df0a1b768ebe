"""Result files are generated on demand, the same every time, and served like those of a file host."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time

import pytest

from reconciler.domain.object_keys import TYPES
from reconciler.media.sniff import sniff
from reconciler.simulator import MediaSpec, Simulator
from reconciler.simulator.media import file_headers
from tests.simulator.client import Asking, asking

GIB = 1 << 30


async def fetch(ask: Asking, address: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    async with ask.session.get(address, headers=headers) as answer:
        return answer.status, await answer.read(), dict(answer.headers)


def whole(media: MediaSpec, task: str = "t", n: int = 0) -> bytes:
    return b"".join(media.chunks(task, n))


@pytest.mark.parametrize("form", sorted(file_headers.FORMS - {"pcm"}))
def test_every_form_is_recognised_as_its_type(form: str) -> None:
    kind = {"mp3-bare": "mp3"}.get(form, form)
    media = MediaSpec(ext=kind, form=form, size=20_000)
    assert sniff(whole(media)[:4096]) == media.mime
    assert media.mime in TYPES


@pytest.mark.parametrize("size", [0, 1, 17, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 5])
@pytest.mark.parametrize("ext", ["png", "mp3", "mp4"])
def test_a_file_has_exactly_its_size_and_any_range_is_the_same_part(ext: str, size: int) -> None:
    media = MediaSpec(ext=ext, size=size)
    bytes_ = whole(media)
    assert len(bytes_) == size
    for start, end in ((0, size), (size // 2, size), (1, size // 3), (size // 3, size // 2)):
        assert b"".join(media.chunks("t", 0, start, end)) == bytes_[start:end]
    assert media.sha256("t") == hashlib.sha256(bytes_).hexdigest()


def test_no_two_files_and_no_two_blocks_are_alike() -> None:
    media = MediaSpec("video", "mp4", 3 << 20)
    files = [whole(media, "a", 0), whole(media, "a", 1), whole(media, "b", 0)]
    assert len({hashlib.sha256(one).digest() for one in files}) == 3
    blocks = [files[0][start : start + (1 << 20)] for start in range(0, 3 << 20, 1 << 20)]
    assert len({hashlib.sha256(block).digest() for block in blocks}) == 3
    assert files[0][-1000:] != files[2][-1000:]
    assert whole(media, "a", 0) == files[0]


@pytest.mark.parametrize(("ext", "size"), [("png", 64_000), ("mp3", 30_000), ("mp4", 9_000), ("wav", 9_000)])
def test_small_files_are_not_alike_either(ext: str, size: int) -> None:
    assert len({whole(MediaSpec(ext=ext, size=size), str(n)) for n in range(4000)}) == 4000


@pytest.mark.parametrize(("form", "begins"), [("mp3", 384), ("mp3-bare", 0)])
def test_an_mp3_is_whole_frames_from_its_tag_to_its_end(form: str, begins: int) -> None:
    file = whole(MediaSpec("audio", "mp3", (3 << 20) + 100, form=form))
    frames = [file[at : at + 384] for at in range(begins, len(file) - 383, 384)]
    # MPEG-1, layer III, no checksum, 128 kbit/s, 48 kHz, no padding, mono: 144 * 128000 / 48000 bytes each.
    assert {frame[:4] for frame in frames} == {b"\xff\xfb\x94\xc0"}
    # No frame uses bits of the frames before it.
    assert {int.from_bytes(frame[4:6]) >> 7 for frame in frames} == {0}
    assert len({frame[100:] for frame in frames}) >= (1 << 20) // 384


@pytest.mark.parametrize("size", [500, 20_000, 5 * GIB])
@pytest.mark.parametrize("ext", ["mp4", "mov"])
def test_the_boxes_of_a_video_end_at_the_end_of_the_file(ext: str, size: int) -> None:
    media, at, kinds = MediaSpec("video", ext, size), 0, []
    while at < size:
        head = b"".join(media.chunks("t", 0, at, at + 16))
        length = int.from_bytes(head[:4])
        kinds.append(head[4:8])
        at += int.from_bytes(head[8:16]) if length == 1 else length
    assert at == size
    assert kinds == ([b"ftyp", b"mdat"] if size == 500 else [b"ftyp", b"moov", b"mdat", b"free"])


def test_the_chunks_of_a_wav_end_at_the_end_of_the_file() -> None:
    file, at, kinds = whole(MediaSpec("audio", "wav", 300_000)), 12, []
    while at < len(file):
        kinds.append(file[at : at + 4])
        at += 8 + int.from_bytes(file[at + 4 : at + 8], "little")
    assert (at, kinds) == (300_000, [b"fmt ", b"data", b"JUNK"])
    assert int.from_bytes(file[4:8], "little") == 300_000 - 8


def test_an_ogg_page_carries_its_own_checksum() -> None:
    page = bytearray(file_headers.head("ogg", 9000, 0))
    told = int.from_bytes(page[22:26], "little")
    page[22:26] = bytes(4)
    rest = int.from_bytes(page, "big") << 32
    while rest.bit_length() > 32:
        rest ^= 0x104C11DB7 << rest.bit_length() - 33
    assert rest == told


def test_a_huge_video_is_generated_faster_than_it_is_hashed() -> None:
    media = MediaSpec("video", "mp4", 6 * GIB)
    began = time.process_time()
    made = sum(len(piece) for piece in media.chunks("t", 0, 5 * GIB))
    assert made == GIB
    assert GIB / (time.process_time() - began) > 1e9


async def test_a_file_arrives_with_its_length_and_type() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(model="kling-3.0/video", results=[MediaSpec("video", "mp4", 3_000_001)])
        status, body, headers = await fetch(ask, kie.addresses(kie.tasks[task])[0])
        assert (status, headers["Content-Length"], headers["Content-Type"]) == (200, "3000001", "video/mp4")
        assert hashlib.sha256(body).hexdigest() == kie.sha256(task)
        assert kie.tasks[task].downloads == kie.tasks[task].completed == [1]


FORMS_SEEN = {
    "seedream/5-lite": ("image", "png", r"/r/{task}_{second}_[0-9a-f]{{8}}\.png"),
    "kling-3.0/video": ("video", "mp4", r"/k/{task}_1_{second}_\d{{4}}\.mp4"),
    "nano-banana-2": ("image", "png", r"/na2/{task}\d+\.png"),
    "gpt-image-2": ("image", "png", r"/images/chatgpt/file_[0-9a-f]{{32}}\.png"),
    "grok-imagine/text-to-image": ("image", "jpg", r"/r/[0-9a-f-]{{36}}\.jpg"),
    "grok-imagine/image-to-video": ("video", "mp4", r"/g/users/[0-9a-f-]{{36}}/generated/[0-9a-f-]{{36}}/\w+\.mp4"),
    "bytedance/seedance-2": ("video", "mp4", r"/seedance/{second}\d{{3}}-\w{{11}}\.mp4"),
    "wan/2-7-r2v": ("video", "mp4", r"/wan-2-7-r2v/{second}\d{{3}}-\w{{11}}\.mp4"),
}


@pytest.mark.parametrize("model", FORMS_SEEN)
def test_a_result_has_the_path_form_of_its_vendor(model: str) -> None:
    kind, ext, form = FORMS_SEEN[model]
    kie = Simulator()
    task = kie.tasks[kie.add_task(model=model, results=[MediaSpec(kind, ext)], life=60)]
    second = int(kie.clock.epoch(task.born + 60))
    assert re.fullmatch(form.format(task=task.id, second=second), task.paths[0])


async def test_an_address_may_have_no_extension() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(results=[MediaSpec("audio", "", 9000, form="mp3-bare")])
        address = kie.addresses(kie.tasks[task])[0]
        assert "." not in address.rpartition("/")[2]
        assert (await fetch(ask, address))[2]["Content-Type"] == "audio/mpeg"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=100-", 100, 5000), ("bytes=-100", 4900, 5000), ("bytes=10-99999", 10, 5000)],
)
async def test_a_range_of_a_file_is_served(asked: str, start: int, end: int) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(results=[MediaSpec(size=5000)])
        status, body, headers = await fetch(ask, kie.addresses(kie.tasks[task])[0], Range=asked)
        assert (status, body) == (206, whole(MediaSpec(size=5000), task)[start:end])
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/5000"


@pytest.mark.parametrize("asked", ["bytes=5000-", "bytes=9-1", "bytes=-", "bytes=-0", "lines=1-2"])
async def test_an_impossible_range_is_refused(asked: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(results=[MediaSpec(size=5000)])
        assert (await fetch(ask, kie.addresses(kie.tasks[task])[0], Range=asked))[0] == 416


async def test_a_file_exists_from_the_end_of_its_task_until_it_expires() -> None:
    async with Simulator(media_lasts=86400.0) as kie, asking(kie) as ask:
        task = kie.add_task(life=100)
        address = kie.addresses(kie.tasks[task])[0]
        assert (await fetch(ask, address))[0] == 404
        kie.skip(100)
        assert (await fetch(ask, address))[0] == 200
        kie.skip(86400)
        assert (await fetch(ask, address))[0] == 404


async def test_a_download_link_works_for_twenty_minutes_even_if_the_plain_address_is_refused() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task()
        address = kie.addresses(kie.tasks[task])[0]
        kie.strike("plain.403", task=task, times=99)
        assert (await fetch(ask, address))[0] == 403
        _, minted = await ask.post("/api/v1/common/download-url", {"url": address})
        assert (await fetch(ask, minted["data"]))[0] == 200
        assert (await fetch(ask, minted["data"].replace("Signature=", "Signature=0")))[0] == 403
        kie.skip(1201)
        assert (await fetch(ask, minted["data"]))[0] == 403


async def test_a_foreign_address_gets_no_download_link() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        kie.add_task()
        for url in ("https://example.com/x.png", kie.url + "/nothing.png", 7):
            answer = await ask.post("/api/v1/common/download-url", {"url": url})
            assert answer == (200, {"code": 422, "msg": "url is wrong", "data": None})


async def test_all_files_together_keep_to_their_shared_rate() -> None:
    async with Simulator(file_rate=2_000_000) as kie, asking(kie) as ask:
        tasks = [kie.tasks[kie.add_task(results=(MediaSpec(size=200_000),))] for _ in range(3)]
        began = time.monotonic()
        got = await asyncio.gather(*(fetch(ask, kie.addresses(task)[0]) for task in tasks))
        assert time.monotonic() - began >= 0.29
    assert [hashlib.sha256(body).hexdigest() for _, body, _ in got] == [kie.sha256(task.id, 0) for task in tasks]
