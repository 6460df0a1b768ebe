"""Formats and counts as a request orders them, and the bytes of every type."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from reconciler.media.sniff import sniff
from reconciler.simulator import MediaSpec, Simulator
from reconciler.simulator.media import documents
from tests.simulator.client import Asking, asking

MARKET = "/api/v1/jobs/createTask"


async def made(ask: Asking, model: str, **inputs: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the addresses and the resultJson of a task that has ended."""
    answer = (await ask.post(MARKET, {"model": model, "input": {"prompt": "x", **inputs}}))[1]
    task = answer["data"]["taskId"]
    ask.kie.end(task)
    result = json.loads((await ask.record(task))[1]["data"]["resultJson"])
    return result["resultUrls"], result


@pytest.mark.parametrize(
    ("model", "wanted", "mime"),
    [
        ("nano-banana-2", "png", "image/png"),
        ("nano-banana-2", "jpg", "image/jpeg"),
        ("google/nano-banana", "jpeg", "image/jpeg"),
        ("seedream/5-pro-text-to-image", "webp", "image/webp"),
        ("bytedance/seedance-2", "mp4", "video/mp4"),
        ("bytedance/seedance-2", "mov", "video/quicktime"),
        ("elevenlabs/sound-effect-v2", "mp3_44100_128", "audio/mpeg"),
        ("elevenlabs/sound-effect-v2", "wav", "audio/wav"),
        ("elevenlabs/sound-effect-v2", "opus_48000_32", "audio/ogg"),
        ("elevenlabs/sound-effect-v2", "pcm_16000", "audio/pcm"),
    ],
)
async def test_a_result_has_the_format_that_was_ordered(model: str, wanted: str, mime: str) -> None:
    async with Simulator(media_size=40_000) as kie, asking(kie) as ask:
        ((address,), _) = await made(ask, model, output_format=wanted)
        async with ask.session.get(address) as answer:
            head = await answer.read()
            assert (answer.content_type, len(head)) == (mime, 40_000)
        assert mime == "audio/pcm" or sniff(head[:4096]) == mime


async def test_a_format_of_another_kind_is_ignored() -> None:
    async with Simulator(media_size=1000) as kie, asking(kie) as ask:
        ((address,), _) = await made(ask, "bytedance/seedance-2", output_format="png")
        assert address.endswith(".mp4")


@pytest.mark.parametrize(
    ("inputs", "count"),
    [
        ({"num_images": 3}, 3),
        ({"num_images": "4"}, 4),
        ({"n": 2}, 2),
        ({"max_images": 6}, 6),
        ({"num_images": 100}, 16),
        ({"num_images": 0}, 1),
        ({"num_images": -1}, 1),
        ({"num_images": True}, 1),
        ({"num_images": "many"}, 1),
        ({}, 1),
    ],
)
async def test_there_are_as_many_results_as_ordered(inputs: dict[str, Any], count: int) -> None:
    async with Simulator(media_size=1000) as kie, asking(kie) as ask:
        addresses, _ = await made(ask, "qwen/image-edit", **inputs)
        assert len(set(addresses)) == len(addresses) == count


@pytest.mark.parametrize(("path", "body", "count"), [
    ("/api/v1/gpt4o-image/generate", {"size": "1:1", "nVariants": 4}, 4),
    ("/api/v1/mj/generate", {"taskType": "mj_txt2img", "prompt": "x"}, 4),
    ("/api/v1/generate", {"prompt": "x", "callBackUrl": "http://127.0.0.1:9/"}, 2),
    ("/api/v1/vocal-removal/generate", {"type": "separate_vocal"}, 2),
    ("/api/v1/vocal-removal/generate", {"type": "split_stem"}, 12),
    ("/api/v1/vocal-removal/generate", {"type": "split_stem_advanced", "stemName": "Saxophone"}, 1),
])  # fmt: skip
async def test_dedicated_dialects_make_the_number_that_their_pages_say(path: str, body: Any, count: int) -> None:
    async with Simulator(media_size=1000) as kie, asking(kie) as ask:
        answer = await ask.post(path, {"taskId": kie.add_task(family="suno"), **body})
        assert len(kie.tasks[answer[1]["data"]["taskId"]].results) == count


async def test_the_last_frame_comes_beside_the_film() -> None:
    async with Simulator(media_size=1000) as kie, asking(kie) as ask:
        (film,), result = await made(ask, "bytedance/seedance-2", return_last_frame=True)
        assert (result["firstFrameUrl"], len(result["lastFrameUrl"])) == ([], 1)
        for address, mime in ((film, "video/mp4"), (result["lastFrameUrl"][0], "image/png")):
            async with ask.session.get(address) as answer:
                assert (answer.status, answer.content_type) == (200, mime)
        assert "lastFrameUrl" not in (await made(ask, "bytedance/seedance-2"))[1]


def content(form: str, size: int = 5000, task: str = "t") -> bytes:
    return b"".join(MediaSpec("text", form, size).chunks(task, 0))


@pytest.mark.parametrize("form", sorted(documents.FORMS))
@pytest.mark.parametrize("size", [0, 1, 700, 5000])
def test_a_document_has_exactly_its_size_and_any_range_is_the_same_part(form: str, size: int) -> None:
    whole = content(form, size)
    assert len(whole) == size
    assert b"".join(MediaSpec("text", form, size).chunks("t", 0, size // 3, size // 2)) == whole[size // 3 : size // 2]


@pytest.mark.parametrize("form", sorted(documents.FORMS))
def test_no_two_documents_are_alike(form: str) -> None:
    assert content(form, task="a") != content(form, task="b")


def test_texts_are_texts() -> None:
    assert json.loads(content("json"))["text"] == "good evening"
    assert ET.fromstring(content("svg")).tag == "{http://www.w3.org/2000/svg}svg"
    assert content("vtt").startswith(b"WEBVTT\n\n00:00.100 --> ")
    assert content("srt").startswith(b"1\n00:00:00,100 --> 00:00:00,400\ngood\n\n2\n")
    for form in ("txt", "srt", "vtt", "json", "svg"):
        assert content(form).decode().isascii()


def test_an_archive_can_be_opened_and_its_checksums_hold() -> None:
    with zipfile.ZipFile(io.BytesIO(content("zip"))) as archive:
        assert archive.namelist() == ["stamp.txt"]
        assert archive.testzip() is None


def test_the_cross_references_of_a_pdf_point_at_its_objects() -> None:
    pdf = content("pdf")
    start = int(pdf.rpartition(b"startxref\n")[2].split()[0])
    entries = pdf[start:].split(b"\n")[2:7]
    assert pdf[start:].startswith(b"xref\n0 5\n")
    for number, entry in enumerate(entries[1:], 1):
        assert pdf[int(entry.split()[0]) :].startswith(b"%d 0 obj" % number)


def test_a_model_a_song_and_a_sound_have_the_lengths_that_they_name() -> None:
    glb = content("glb", 5002)
    magic, version, length = struct.unpack("<4sII", glb[:12])
    assert (magic, version, length) == (b"glTF", 2, 5000)
    assert json.loads(glb[20:length])["asset"]["version"] == "2.0"
    midi = content("mid")
    assert midi[:8] == b"MThd\0\0\0\x06"
    track = midi[22 : 22 + int.from_bytes(midi[18:22])]
    assert (midi[14:18], track[-3:]) == (b"MTrk", b"\xff\x2f\0")
    aiff, at, kinds = content("aiff"), 12, []
    while at < int.from_bytes(aiff[4:8]) + 8:
        kinds.append(aiff[at : at + 4])
        at += 8 + int.from_bytes(aiff[at + 4 : at + 8])
    assert (kinds, at) == ([b"COMM", b"NAME", b"SSND"], int.from_bytes(aiff[4:8]) + 8)


def test_pictures_of_print_shops_name_their_sides() -> None:
    tiff = content("tiff")
    assert tiff[:4] == b"II*\0"
    count = struct.unpack("<H", tiff[8:10])[0]
    tags = {tag: (kind, number, value) for tag, kind, number, value in (
        struct.unpack("<HHII", tiff[10 + 12 * n : 22 + 12 * n]) for n in range(count)
    )}  # fmt: skip
    assert (tags[256][2], tags[257][2], tags[279][2]) == (16, 16, 256)
    assert tiff[tags[273][2] :][:3] == b"\x00\x01\x02"
    assert list(tags) == sorted(tags)
    psd = content("psd")
    assert struct.unpack(">4sH6xHIIHH", psd[:26]) == (b"8BPS", 1, 1, 16, 16, 8, 1)
