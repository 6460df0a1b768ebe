"""The type of a file is recognised by its bytes alone."""

from __future__ import annotations

import struct

import pytest

from reconciler.domain.object_keys import TYPES
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
}

REFUSED = {
    "html in svg's clothes": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "svg behind a prolog": b"<?xml version='1.0'?>\n<!-- x -->\n<SVG width='1'>",
    "svg in a namespace": b"<?xml version='1.0'?><s:svg xmlns:s='http://www.w3.org/2000/svg'/>",
    "svg behind a byte order mark": b"\xef\xbb\xbf  <svg/>".replace(b"/", b" /"),
    "script": b"#!/bin/sh\necho hello\n",
    "program for Windows": b"MZ\x90\0" + FILLER,
    "program for Linux": b"\x7fELF\2\1\1\0" + FILLER,
    "pdf": b"%PDF-1.7\n" + FILLER,
    "zip": b"PK\3\4" + FILLER,
    "gzip": b"\x1f\x8b\x08\0" + FILLER,
    "heic": ftyp(b"heic", b"mif1", b"heic"),
    "matroska": ebml(b"matroska"),
    "theora": ogg(b"\x80theora"),
    "avi": riff(b"AVI "),
    "bmp": b"BM" + FILLER,
    "tiff": b"II*\0" + FILLER,
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
}


def flat(table: dict[str, list[bytes]]) -> list[tuple[str, bytes]]:
    return [(mime, head) for mime, heads in table.items() for head in heads]


@pytest.mark.parametrize(("mime", "head"), flat(KEPT))
def test_every_accepted_type_is_recognised_by_its_bytes(mime: str, head: bytes) -> None:
    assert sniff(head[:4096]) == mime


def test_the_recognised_types_are_the_accepted_ones() -> None:
    assert set(KEPT) == set(TYPES)


@pytest.mark.parametrize("what", REFUSED)
def test_active_and_unknown_content_is_a_permanent_error(what: str) -> None:
    with pytest.raises(Permanent) as caught:
        sniff(REFUSED[what])
    assert caught.value.code == "type_refused"


@pytest.mark.parametrize("what", PAGES)
def test_a_page_instead_of_a_file_is_a_transient_error(what: str) -> None:
    with pytest.raises(Transient) as caught:
        sniff(PAGES[what])
    assert caught.value.code == "not_media"


def test_the_refusal_names_the_type() -> None:
    with pytest.raises(Permanent, match="application/pdf"):
        sniff(REFUSED["pdf"])


def test_no_truncated_head_raises_another_error() -> None:
    for _, head in [*flat(KEPT), *((w, h) for w, h in REFUSED.items())]:
        for length in range(64):
            try:
                mime = sniff(head[:length])
            except (Permanent, Transient):
                continue
            assert mime in TYPES
