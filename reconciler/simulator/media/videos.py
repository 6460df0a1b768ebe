"""One small video as MP4, QuickTime and WebM; players skip the filler after it.

The frames are in `recorded_frames.py`; here they get the boxes and elements of ISO 14496-12, 14496-15 and RFC 9559.
Pure. Called by `file_headers.py`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from functools import lru_cache

from reconciler.simulator.media import recorded_frames

WIDTH, HEIGHT = 320, 180
RATE = 12
_MATRIX = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def box(kind: bytes, size: int) -> bytes:
    """The head of an ISO box of so many bytes in all; one of 4 GiB and more has a longer head."""
    if size >= 1 << 32:
        return struct.pack(">I4sQ", 1, kind, size)
    return struct.pack(">I4s", max(size, 8), kind)


@lru_cache(maxsize=8)
def mp4(brand: bytes) -> bytes:
    """The film in ISO boxes behind these `ftyp` bytes; a box that players skip may follow."""
    record, *frames = _parts(recorded_frames.AVC)
    moov = _moov(record, [len(frame) for frame in frames], 0)
    first = len(brand) + len(moov) + 8
    return brand + _moov(record, [len(frame) for frame in frames], first) + _box(b"mdat", *frames)


@lru_cache(maxsize=1)
def webm() -> bytes:
    """The film as what stands in a WebM's segment: its description and one cluster."""
    frames = _parts(recorded_frames.VP8)
    duration = struct.pack(">d", 1000 * len(frames) / RATE)
    told = _element("1549a966", _element("2ad7b1", b"\x0f\x42\x40"), _element("4489", duration),
                    _element("4d80", b"simulator"), _element("5741", b"simulator"))  # fmt: skip
    sides = _element("b0", struct.pack(">H", WIDTH)) + _element("ba", struct.pack(">H", HEIGHT))
    entry = _element("ae", _element("d7", b"\x01"), _element("73c5", b"\x01"), _element("83", b"\x01"),
                     _element("86", b"V_VP8"), _element("e0", sides))  # fmt: skip
    blocks = (
        _element("a3", struct.pack(">BhB", 0x81, 1000 * n // RATE, 0x80 if n == 0 else 0), frame)
        for n, frame in enumerate(frames)
    )
    return told + _element("1654ae6b", entry) + _element("1f43b675", _element("e7", b"\0"), *blocks)


def long_element(name: str, size: int) -> bytes:
    """The head of an EBML element of so many bytes in all, whose length takes eight bytes."""
    start = bytes.fromhex(name)
    return start + struct.pack(">Q", max(size - len(start) - 8, 0) | 1 << 56)


def _element(name: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes.fromhex(name) + struct.pack(">I", len(body) | 1 << 28) + body


def _parts(recording: str) -> list[bytes]:
    written = base64.b64decode(recording)
    parts, at = [], 0
    while at < len(written):
        end = at + 2 + int.from_bytes(written[at : at + 2])
        parts.append(written[at + 2 : end])
        at = end
    return parts


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return box(kind, len(body) + 8) + body


def _moov(record: bytes, sizes: Sequence[int], first: int) -> bytes:
    count = len(sizes)
    movie = struct.pack(">5I", 0, 0, 0, RATE, count) + struct.pack(">IH10x", 1 << 16, 1 << 8) + _MATRIX + bytes(24)
    track = (
        struct.pack(">6I", 3, 0, 0, 1, 0, count) + bytes(16) + _MATRIX + struct.pack(">2I", WIDTH << 16, HEIGHT << 16)
    )
    media = struct.pack(">5IHH", 0, 0, 0, RATE, count, 0x55C4, 0)
    source = _box(b"dinf", _box(b"dref", struct.pack(">2I", 0, 1), _box(b"url ", b"\0\0\0\1")))
    minf = _box(b"minf", _box(b"vmhd", b"\0\0\0\1", bytes(8)), source, _samples(record, sizes, first))
    mdia = _box(b"mdia", _box(b"mdhd", media), _box(b"hdlr", bytes(8) + b"vide" + bytes(13)), minf)
    return _box(b"moov", _box(b"mvhd", movie, struct.pack(">I", 2)), _box(b"trak", _box(b"tkhd", track), mdia))


def _samples(record: bytes, sizes: Sequence[int], first: int) -> bytes:
    """The sample table: one chunk of all frames, of which the first alone is a whole picture."""
    count = len(sizes)
    shape = struct.pack(">6xH16x2H2I4xH32x2H", 1, WIDTH, HEIGHT, 72 << 16, 72 << 16, 1, 24, 0xFFFF)
    return _box(
        b"stbl",
        _box(b"stsd", struct.pack(">2I", 0, 1), _box(b"avc1", shape, _box(b"avcC", record))),
        _box(b"stts", struct.pack(">4I", 0, 1, count, 1)),
        _box(b"stss", struct.pack(">3I", 0, 1, 1)),
        _box(b"stsc", struct.pack(">5I", 0, 1, 1, count, 1)),
        _box(b"stsz", struct.pack(">3I", 0, 0, count), struct.pack(f">{count}I", *sizes)),
        _box(b"stco", struct.pack(">3I", 0, 1, first)),
    )
