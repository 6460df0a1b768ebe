"""Small documents, by the rules of their formats: texts, subtitles, JSON, SVG, PDF, ZIP, glTF, MIDI, TIFF, PSD, AIFF.

Each is whole and valid at its size, and names the stamp of its task, so that no two are alike; one that is ordered
smaller than its smallest form is cut off. Pure. Called by `files.py`.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from types import MappingProxyType

MIME = MappingProxyType(
    {
        "txt": "text/plain",
        "srt": "application/x-subrip",
        "vtt": "text/vtt",
        "json": "application/json",
        "svg": "image/svg+xml",
        "pdf": "application/pdf",
        "zip": "application/zip",
        "glb": "model/gltf-binary",
        "mid": "audio/midi",
        "tiff": "image/tiff",
        "psd": "image/vnd.adobe.photoshop",
        "aiff": "audio/aiff",
    }
)


def document(form: str, size: int, stamp: str) -> bytes:
    """Return a document of exactly `size` bytes; `form` is one of `FORMS`, `stamp` is printable ASCII."""
    return _FORMS[form](size, stamp)[:size].ljust(size, b"\0" if form in _BINARY else b"\n")


def _txt(size: int, stamp: str) -> bytes:
    line = f"Good evening, said the harbour to the boats. ({stamp})\n"
    return (line * (size // len(line) + 1)).encode()


def _srt(_: int, stamp: str) -> bytes:
    return f"1\n00:00:00,100 --> 00:00:00,400\ngood\n\n2\n00:00:00,500 --> 00:00:01,100\nevening {stamp}\n\n".encode()


def _vtt(_: int, stamp: str) -> bytes:
    return f"WEBVTT\n\n00:00.100 --> 00:00.400\ngood\n\n00:00.500 --> 00:01.100\nevening {stamp}\n\n".encode()


def _json(_: int, stamp: str) -> bytes:
    return json.dumps({"text": "good evening", "stamp": stamp}).encode()


def _svg(_: int, stamp: str) -> bytes:
    drawing = '<circle cx="48" cy="48" r="40" fill="teal"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><!-- {stamp} -->{drawing}</svg>\n'.encode()


def _pdf(_: int, stamp: str) -> bytes:
    parts = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 96 96]>>",
        f"<</Producer({stamp})>>".encode(),
    ]
    written, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(written))
        written += b"%d 0 obj%s endobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(parts) + 1)
    trailer = b"trailer<</Size %d/Root 1 0 R/Info 4 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(parts) + 1, len(written))
    return written + head + table + trailer


def _zip(size: int, stamp: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        head = zipfile.ZipInfo("stamp.txt", date_time=(2026, 1, 1, 0, 0, 0))
        archive.writestr(head, stamp.ljust(max(size - 116, len(stamp))))
    return written.getvalue()


def _glb(size: int, stamp: str) -> bytes:
    text = json.dumps({"asset": {"version": "2.0", "generator": stamp}}).encode()
    text = text.ljust(max(size - 20, len(text)) & ~3 if size > len(text) + 20 else (len(text) + 3) & ~3)
    return struct.pack("<4sII", b"glTF", 2, len(text) + 20) + struct.pack("<I4s", len(text), b"JSON") + text


def _mid(_: int, stamp: str) -> bytes:
    name = stamp.encode()
    track = b"\0\xff\x03" + bytes([len(name)]) + name + b"\0\x90\x3c\x40" + b"\x60\x80\x3c\0" + b"\0\xff\x2f\0"
    return struct.pack(">4sIHHH", b"MThd", 6, 0, 1, 96) + struct.pack(">4sI", b"MTrk", len(track)) + track


def _tiff(_: int, stamp: str) -> bytes:
    side, text = 16, stamp.encode() + b"\0"
    tags = [(256, 3, 1, side), (257, 3, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 0),
            (277, 3, 1, 1), (278, 3, 1, side), (279, 4, 1, side * side), (305, 2, len(text), 0)]  # fmt: skip
    end = 8 + 2 + 12 * len(tags) + 4
    places = {273: end, 305: end + side * side}
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, places.get(tag, value)) for tag, kind, count, value in tags
    )
    pixels = bytes(range(side * side))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + pixels + text


def _psd(_: int, stamp: str) -> bytes:
    side = 16
    text = stamp.encode()
    resource = b"8BIM" + struct.pack(">HHI", 1008, 0, len(text)) + text + b"\0" * (len(text) % 2)
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, side, side, 8, 1)
    sections = struct.pack(">I", 0) + struct.pack(">I", len(resource)) + resource + struct.pack(">I", 0)
    return head + sections + struct.pack(">H", 0) + bytes(range(side * side))


def _aiff(_: int, stamp: str) -> bytes:
    samples = struct.pack(">160h", *(200 * (n % 16 - 8) for n in range(160)))
    name = stamp.encode() + b"\0" * (len(stamp) % 2)
    rate = b"\x40\x0b\xfa" + bytes(7)
    chunks = b"COMM" + struct.pack(">IhIh", 18, 1, 160, 16) + rate + b"NAME" + struct.pack(">I", len(stamp)) + name
    chunks += b"SSND" + struct.pack(">III", len(samples) + 8, 0, 0) + samples
    return b"FORM" + struct.pack(">I", len(chunks) + 4) + b"AIFF" + chunks


_FORMS: MappingProxyType[str, Callable[[int, str], bytes]] = MappingProxyType(
    {
        "txt": _txt,
        "srt": _srt,
        "vtt": _vtt,
        "json": _json,
        "svg": _svg,
        "pdf": _pdf,
        "zip": _zip,
        "glb": _glb,
        "mid": _mid,
        "tiff": _tiff,
        "psd": _psd,
        "aiff": _aiff,
    }
)
_BINARY = frozenset({"zip", "glb", "mid", "tiff", "psd", "aiff"})
FORMS = frozenset(_FORMS)
