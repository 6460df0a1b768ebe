"""The type of a file is recognised by its bytes; an announcement counts where they show none."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import time
import zipfile

import pytest

from reconciler.domain.object_keys import TYPES, extra_type
from reconciler.errors import Permanent, Transient
from reconciler.media.sniff import sniff

FILLER = bytes(range(256)) * 16


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    return box(b"ftyp", major + b"\0\0\2\0" + b"".join(compatible)) + box(b"moov", FILLER)


def riff(kind: bytes, start: bytes = b"RIFF") -> bytes:
    return start + struct.pack("<I", 5000) + kind + FILLER


def ogg(packet: bytes) -> bytes:
    return b"OggS\0\2" + bytes(20) + b"\1\x1e" + packet + FILLER


def ebml(doctype: bytes, size: bytes = b"\x9f") -> bytes:
    fields = b"\x42\x86\x81\1\x42\xf7\x81\1\x42\xf2\x81\4\x42\xf3\x81\x08\x42\x82"
    return b"\x1a\x45\xdf\xa3" + size + fields + bytes([0x80 | len(doctype)]) + doctype + FILLER


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


KEPT = {
    "image/png": [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + FILLER],
    "image/jpeg": [
        b"\xff\xd8\xff" + marker + FILLER
        for marker in (b"\xe0\0\x10JFIF\0", b"\xe1\0\x10Exif\0\0", b"\xdb\0\x43", b"\xee\0\x0eAdobe")
    ],
    "image/webp": [riff(b"WEBP" + form) for form in (b"VP8 ", b"VP8L", b"VP8X")],
    "image/gif": [b"GIF87a" + FILLER, b"GIF89a" + FILLER],
    "image/avif": [
        ftyp(b"avif", b"avif", b"mif1", b"miaf"),
        ftyp(b"avis", b"avis", b"avif", b"msf1", b"iso8"),
        ftyp(b"mif1", b"mif1", b"avif", b"miaf"),
    ],
    "video/mp4": [
        ftyp(major, *compatible)
        for major, compatible in [
            (b"isom", (b"isom", b"iso2", b"avc1", b"mp41")),
            (b"mp42", (b"mp42", b"isom")),
            (b"mp41", ()),
            (b"iso4", ()),
            (b"iso5", (b"iso5", b"dash")),
            (b"iso6", (b"iso6", b"mp41")),
            (b"avc1", (b"avc1", b"isom")),
            (b"dash", (b"iso6",)),
            (b"hvc1", (b"iso4",)),
            (b"MSNV", (b"mp42",)),
            (b"M4V ", (b"M4V ", b"M4A ", b"mp42", b"isom")),
            (b"XXXX", (b"isom",)),
        ]
    ],
    "video/quicktime": [
        ftyp(b"qt  ", b"qt  "),
        box(b"moov", box(b"mvhd", bytes(100)) + FILLER),
        box(b"wide") + box(b"mdat", FILLER),
        box(b"free") + box(b"mdat", FILLER),
        struct.pack(">I", 1) + b"mdat" + struct.pack(">Q", 1 << 33) + FILLER,
    ],
    "video/webm": [ebml(b"webm"), ebml(b"webm", b"\x01\0\0\0\0\0\0\x1f")],
    "audio/mpeg": [
        *(b"ID3" + bytes([version]) + bytes(7) + FILLER for version in (2, 3, 4)),
        *(bytes([0xFF, second, 0x90, 0x64]) + FILLER for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3)),
    ],
    "audio/wav": [riff(b"WAVEfmt "), riff(b"WAVEJUNK"), riff(b"WAVEds64", b"RF64")],
    "audio/ogg": [ogg(b"\1vorbis"), ogg(b"OpusHead")],
    "audio/flac": [b"fLaC\0\0\0\x22" + FILLER],
    "audio/mp4": [
        ftyp(b"M4A ", b"M4A ", b"mp42", b"isom"),
        ftyp(b"M4B ", b"M4B ", b"mp42"),
        ftyp(b"mp42", b"M4A ", b"mp42"),
    ],
    "audio/aac": [
        *(bytes([0xFF, second, 0x50, 0x80]) + FILLER for second in (0xF0, 0xF1, 0xF8, 0xF9)),
        b"ADIF" + FILLER,
    ],
    "audio/midi": [b"MThd" + struct.pack(">IHHH", 6, 1, 2, 480) + b"MTrk" + FILLER],
    "audio/aiff": [
        b"FORM" + struct.pack(">I", 5000) + b"AIFFCOMM" + FILLER,
        b"FORM" + struct.pack(">I", 5000) + b"AIFCFVER" + FILLER,
    ],
    "image/tiff": [
        b"II*\0" + struct.pack("<I", 8) + FILLER,
        b"MM\0*" + struct.pack(">I", 8) + FILLER,
        b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + FILLER,
        b"MM\0+" + struct.pack(">HHQ", 8, 0, 16) + FILLER,
    ],
    "image/vnd.adobe.photoshop": [
        b"8BPS" + struct.pack(">H6xHIIHH", version, 3, 100, 100, 8, 3) + FILLER for version in (1, 2)
    ],
    "image/svg+xml": [
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<?xml version='1.0'?>\n<!-- a drawing > all -->\n<svg width='1'>",
        b"<?xml version='1.0'?><s:svg xmlns:s='http://www.w3.org/2000/svg'/>",
        b"\xef\xbb\xbf  <svg />",
        b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'svg11.dtd' [ <!ENTITY ns 'x'> ]>\n<svg>",
    ],
    "application/pdf": [b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj" + FILLER, b"%PDF-1.4\n1 0 obj <<>> endobj"],
    "application/zip": [zipped({"a.txt": b"x"}), zipped({})],
    "model/gltf-binary": [
        b"glTF" + struct.pack("<II", version, 5000) + struct.pack("<I", 20) + b"JSON{}" + FILLER for version in (1, 2)
    ],
}

REFUSED = {
    "script": b"#!/bin/sh\necho hello\n",
    "program for Windows": b"MZ\x90\0" + FILLER,
    "program for Linux": b"\x7fELF\2\1\1\0" + FILLER,
    "PostScript": b"%!PS-Adobe-3.0\n(hello) show\n",
    "a cut PDF": b"%PDF",
    "part of a zip": b"PK\1\2" + FILLER,
    "glTF of a version to come": b"glTF\3\0\0\0" + FILLER,
    "IFF that is no sound": b"FORM\0\0\x10\0ILBMBMHD" + FILLER,
    "Photoshop of a version to come": b"8BPS\0\3" + FILLER,
    "gzip": b"\x1f\x8b\x08\0" + FILLER,
    "heic": ftyp(b"heic", b"mif1", b"heic"),
    "matroska": ebml(b"matroska"),
    "theora": ogg(b"\x80theora"),
    "avi": riff(b"AVI "),
    "bmp": b"BM" + FILLER,
    "icon": b"\0\0\1\0\1\0" + FILLER,
    "zeros": bytes(4096),
    "MPEG-4 of unknown brand": ftyp(b"XXXX", b"YYYY"),
    "MPEG-4 whose box has no size": b"\0\0\0\0ftypisom" + FILLER,
    "MPEG audio of a forbidden rate": b"\xff\xfb\xf0\x64" + FILLER,
    "MPEG audio of layer one": b"\xff\xff\x90\x64" + FILLER,
    "text in UTF-16": b"\xff\xfe" + "<html>".encode("utf-16-le"),
    "RIFF without a form": b"RIFF\0\0",
}

PAGES = {
    "html": b"<!DOCTYPE html><html><body>Internal Server Error</body></html>",
    "html after blanks": b"\r\n   <html lang='de'>",
    "html in capitals": b"<HTML><HEAD>",
    "KIE's envelope": b'{"code":500,"msg":"Server exception","data":null}',
    "a list": b"[]",
    "storage's error": b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey</Code></Error>",
    "Cloudflare's refusal": b"error code: 1010",
    "not in ASCII": "<html>文件不存在</html>".encode(),
    "one letter": b"x",
    "blanks": b" \r\n\t ",
    "lyrics that nobody announced": b"[Verse 1]\nThe moon is down\n",
    "subtitles that nobody announced": b"1\n00:00:01,000 --> 00:00:02,000\nHello\n",
    "a page with a drawing": b"<html><body><svg><script>alert(1)</script></svg></body></html>",
    "tags in capitals": b"<?xml version='1.0'?><SVG width='1'>",
}


def flat(table: dict[str, list[bytes]]) -> list[tuple[str, bytes]]:
    return [(mime, head) for mime, heads in table.items() for head in heads]


@pytest.mark.parametrize(("mime", "head"), flat(KEPT))
def test_every_accepted_type_is_recognised_by_its_bytes(mime: str, head: bytes) -> None:
    assert sniff(head[:4096]) == mime


def test_the_recognised_types_are_those_with_a_signature() -> None:
    assert TYPES.keys() - KEPT.keys() == WORDS.keys() | {"audio/pcm"}
    assert KEPT.keys() <= TYPES.keys()


@pytest.mark.parametrize(("mime", "head"), flat(KEPT))
@pytest.mark.parametrize("announced", ["text/plain", "application/json", "audio/pcm", "image/png"])
def test_a_signature_counts_more_than_an_announcement(mime: str, head: bytes, announced: str) -> None:
    assert sniff(head[:4096], announced=announced) == mime


WORDS = {
    "text/plain": [
        b"[Verse 1]\nThe moon is down\n", "Ночь, улица".encode(), b"\xef\xbb\xbfmarked", b"1 < 2", b"<3 you",
    ],
    "application/json": [
        b'{"segments":[{"start":0.0,"text":"a"}]}', b"[]", b" \r\n[1, 2]", b"{}", b'\xef\xbb\xbf{"a": null}',
        b'{"error": null, "text": "a"}', b'{"code": 200, "msg": "success", "data": {"text": "a"}}',
    ],
    "application/x-subrip": [
        b"1\n00:00:01,000 --> 00:00:02,000\nHello\n",
        b"\xef\xbb\xbf1\r\n00:00:01,000 --> 00:00:02,000\r\n<b>Hello</b>\r\n",
        b"\n12 \n100:00:01.5 --> 100:00:02.5\nHello",
    ],
    "text/vtt": [b"WEBVTT\n\n00:01.000 --> 00:02.000\nHello", b"WEBVTT", b"\xef\xbb\xbfWEBVTT - a title\n"],
}  # fmt: skip


@pytest.mark.parametrize(("mime", "head"), flat(WORDS))
def test_words_are_recognised_where_their_type_is_announced(mime: str, head: bytes) -> None:
    assert sniff(head, announced=mime, whole=True) == mime


@pytest.mark.parametrize(("mime", "head"), flat(WORDS))
@pytest.mark.parametrize("announced", [None, "image/png", "audio/mpeg", "application/pdf", "audio/pcm", "text/html"])
def test_words_are_no_result_where_no_text_is_announced(mime: str, head: bytes, announced: str | None) -> None:
    with pytest.raises(Transient) as caught:
        sniff(head, announced=announced, whole=True)
    assert caught.value.code == "not_media"


@pytest.mark.parametrize("announced", ["application/json", "text/vtt"])
def test_subtitles_are_recognised_under_the_name_of_other_words(announced: str) -> None:
    assert sniff(WORDS["application/x-subrip"][0], announced=announced, whole=True) == "application/x-subrip"


HOSTILE = {
    "a page": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "a page behind a mark and blanks": b"\xef\xbb\xbf \r\n\t<html>",
    "a page behind comments": b"<!-- {} --><!-- 1 -->\n<HTML lang='x'>",
    "a page behind a doctype of its own": b"<!doctype HTML SYSTEM 'about:legacy-compat'><x>",
    "XHTML": b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'/>",
    "XHTML with a prefix": b"<?xml version='1.0'?><h:html xmlns:h='http://www.w3.org/1999/xhtml'/>",
    "a lonely script": b"<script>alert(1)</script>",
    "a part of a page": b"<p>Sorry</p>",
    "a comment alone": b"<!-- Server error -->",
    "an object store's error": b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
    "a gateway's words": b"error code: 1010\n",
    "KIE's refusal": b'{"code":404,"msg":"not found"}',
    "KIE's refusal as text": b'{"code":"500","msg":"no"}',
    "KIE's envelope without data": b'{"code":200,"msg":"success","data":null}',
    "an API's error": b'{"error":"not found"}',
    "an API's errors": b'{"errors":[{"message":"no"}]}',
    "storage's error": b'{"statusCode":"404","message":"Object not found"}',
    "an unsuccessful answer": b'{"success":false,"data":{}}',
    "blanks": b"   ",
}


ADDED = {**TYPES, "application/x-foo": extra_type("foo")}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("announced", [*WORDS, "text/csv", "application/x-foo", None])
def test_a_page_or_an_error_is_no_result_whatever_is_announced(what: str, announced: str | None) -> None:
    with pytest.raises(Transient) as caught:
        sniff(HOSTILE[what], announced=announced, whole=True, types=ADDED)
    assert caught.value.code == "not_media"


LONG_HOSTILE = {
    "a page": b"<html><body>",
    "an envelope": b'{"code": 500, "msg": "',
    "an envelope whose code is a text": b'{"statusCode":"404","message":"',
    "an error": b'{"error" : {"stack": "',
    "errors": b'\n{ "errors": [ "',
}
"""Beginnings of bodies whose end is not known yet."""


@pytest.mark.parametrize("what", LONG_HOSTILE)
@pytest.mark.parametrize("announced", [*WORDS, "text/csv", "application/x-foo", None])
def test_a_long_page_or_error_is_known_by_its_beginning(what: str, announced: str | None) -> None:
    with pytest.raises(Transient) as caught:
        sniff((LONG_HOSTILE[what] + b"x" * 4096)[:4096], announced=announced, types=ADDED)
    assert caught.value.code == "not_media"


@pytest.mark.parametrize(
    ("head", "whole"),
    [
        (b"{not json}", True), (b'{"cut": ', True), (b'"a string"', True), (b"17", True),
        (b"words", False), (b"[words", False),
    ],
)  # fmt: skip
def test_what_is_no_json_is_no_result_under_the_name_of_json(head: bytes, whole: bool) -> None:
    with pytest.raises(Transient):
        sniff(head, announced="application/json", whole=whole)


@pytest.mark.parametrize(
    "begins", [b'{"segments":[', b"[[0.1,", b'[{"a":"', b"[true,", b'{"error": null, "text":"', b'{"code":200,']
)
def test_long_json_is_recognised_by_its_beginning(begins: bytes) -> None:
    assert sniff((begins + b"1," * 4096)[:4096], announced="application/json") == "application/json"


def test_json_nested_without_end_is_no_result() -> None:
    with pytest.raises(Transient):
        sniff(b"[" * 4095, announced="application/json", whole=True)


def test_a_character_cut_at_the_end_of_the_head_does_no_harm() -> None:
    assert sniff(("я" * 3000).encode()[:4095], announced="text/plain") == "text/plain"


def test_raw_sound_is_kept_where_it_is_announced() -> None:
    for head in (FILLER[:4096], bytes(4096)):
        assert sniff(head, announced="audio/pcm") == "audio/pcm"
        with pytest.raises(Permanent):
            sniff(head)


@pytest.mark.parametrize("announced", ["text/csv", "text/xml", "application/rdf+xml"])
def test_words_of_a_type_that_is_not_stored_wait_for_an_operator(announced: str) -> None:
    with pytest.raises(Permanent, match=re.escape(announced)) as caught:
        sniff(b"<a-table>1,2,3</a-table>", announced=announced, whole=True)
    assert caught.value.code == "type_refused"
    assert "RECONCILER_EXTRA_TYPES" in caught.value.hint


def test_an_added_type_is_recognised_by_its_announcement() -> None:
    types = {**ADDED, "text/csv": extra_type("csv")}
    assert sniff(FILLER[:4096], announced="application/x-foo", types=types) == "application/x-foo"
    assert sniff(b"1,2,3", announced="text/csv", whole=True, types=types) == "text/csv"
    with pytest.raises(Permanent):
        sniff(FILLER[:4096], types=types)


def test_an_added_type_is_recognised_by_the_name_that_the_refusal_told() -> None:
    with pytest.raises(Permanent, match="video/x-matroska") as caught:
        sniff(ebml(b"matroska"))
    assert "RECONCILER_EXTRA_TYPES" in caught.value.hint
    assert sniff(ebml(b"matroska"), types={**TYPES, "video/x-matroska": extra_type("mkv")}) == "video/x-matroska"
    # puremagic knows no MIME type of some formats, and names them by their extension.
    disc = b"\x0eNeroISO" + bytes(300)
    with pytest.raises(Permanent, match=r"\.nri"):
        sniff(disc)
    assert sniff(disc, types={**TYPES, "application/x-nero": extra_type("nri")}) == "application/x-nero"


POLYGLOTS = {
    "a picture that is a script": (b"GIF89a/*" + b"*/=1;alert(1)//<script>" + FILLER, "image/gif"),
    "a picture that is a page": (b"\xff\xd8\xff\xfe\0\x20<html><script>" + FILLER, "image/jpeg"),
    "a document that is an archive": (b"%PDF-1.7\n" + b"PK\3\4" + FILLER, "application/pdf"),
    "an archive that is a page": (zipped({"<html>": b"<script>"}), "application/zip"),
}


@pytest.mark.parametrize("what", POLYGLOTS)
@pytest.mark.parametrize("announced", ["text/plain", "application/json", None])
def test_a_file_of_two_types_is_of_the_one_whose_signature_stands_first(what: str, announced: str | None) -> None:
    head, mime = POLYGLOTS[what]
    assert sniff(head[:4096], announced=announced) == mime


@pytest.mark.parametrize("what", REFUSED)
def test_active_and_unknown_content_is_a_permanent_error(what: str) -> None:
    with pytest.raises(Permanent) as caught:
        sniff(REFUSED[what])
    assert caught.value.code == "type_refused"


@pytest.mark.parametrize("what", REFUSED)
def test_no_refusal_names_a_type_that_is_stored(what: str) -> None:
    with pytest.raises(Permanent) as caught:
        sniff(REFUSED[what])
    assert str(caught.value).rpartition(": ")[2] not in TYPES


@pytest.mark.parametrize("what", PAGES)
def test_a_page_instead_of_a_file_is_a_transient_error(what: str) -> None:
    with pytest.raises(Transient) as caught:
        sniff(PAGES[what])
    assert caught.value.code == "not_media"


@pytest.mark.soak
def test_no_truncated_head_raises_another_error() -> None:
    for _, head in [*flat(KEPT), *flat(WORDS), *REFUSED.items(), *HOSTILE.items()]:
        for length in range(64):
            for announced in (None, *WORDS, "audio/pcm"):
                try:
                    mime = sniff(head[:length], announced=announced, whole=True)
                except (Permanent, Transient):
                    continue
                assert mime in TYPES


@pytest.mark.parametrize(
    "head",
    [
        b"<!--" * 1024,
        b"<?" * 2048,
        b"<!doctype [" + b"]  " * 1361,
        b" " * 4096,
        b"<" * 4096,
        b'{"error":' + b" " * 4000,
    ],
)
def test_a_head_made_to_be_slow_is_read_in_a_moment(head: bytes) -> None:
    began = time.process_time()
    for announced in WORDS:
        with contextlib.suppress(Permanent, Transient):
            sniff(head, announced=announced)
    assert time.process_time() - began < 0.5
