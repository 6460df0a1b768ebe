"""The first bytes of a result file, which make it an image, a video or a sound of its type.

Containers get the size of the whole file, so that the filler after the header is inside a box, an element or a chunk
that players skip. Pure. `files.py` calls it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import MappingProxyType

from reconciler.simulator.media import audio, images, videos


def _boxes(brands: bytes) -> Callable[[int], bytes]:
    """An ISO file: `ftyp`, then one `mdat` box to the end of the file."""
    brand = _ftyp(brands)
    return lambda size: brand + videos.box(b"mdat", size - len(brand))


def _film(brands: bytes) -> Callable[[int], bytes]:
    """An ISO film and one `free` box to the end of the file; a file too small for that is `mdat` alone."""
    small = _boxes(brands)

    def head(size: int) -> bytes:
        film = videos.mp4(_ftyp(brands))
        return film + videos.box(b"free", size - len(film)) if size >= len(film) + 8 else small(size)

    return head


def _ftyp(brands: bytes) -> bytes:
    return struct.pack(">I4s4sI", 16 + len(brands), b"ftyp", brands[:4], 0x200) + brands


def _webm(size: int) -> bytes:
    fields = b"\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08"
    fields += b"\x42\x82\x84webm\x42\x87\x81\x04\x42\x85\x81\x02"
    header = b"\x1a\x45\xdf\xa3" + bytes([0x80 | len(fields)]) + fields
    begun = header + videos.long_element("18538067", size - len(header))
    film = videos.webm()
    if size >= len(begun) + len(film) + 9:
        begun += film
    return begun + videos.long_element("ec", size - len(begun))


def _mp3(_: int) -> bytes:
    return audio.id3(b"a simulated song")


def _mp3_bare(_: int) -> bytes:
    return audio.frame_start(0).ljust(audio.FRAME, b"\0")


def _aac(_: int) -> bytes:
    """Four empty ADTS frames of 32 bytes each."""
    return (b"\xff\xf1\x50\x80\x04\x1f\xfc" + bytes(25)) * 4


def _flac(_: int) -> bytes:
    stream = struct.pack(">HH", 4096, 4096) + bytes(6) + (44100 << 44 | 1 << 41 | 15 << 36).to_bytes(8, "big")
    return b"fLaC\x80\0\0\x22" + stream + bytes(16)


def _ogg(_: int) -> bytes:
    opus = b"OpusHead\x01\x02" + struct.pack("<HIhB", 312, 48000, 0, 0)
    before = b"OggS\0\x02" + bytes(8) + b"sim1" + bytes(4)
    after = bytes([1, len(opus)]) + opus
    return before + struct.pack("<I", _ogg_sum(before + bytes(4) + after)) + after


def _pcm(_: int) -> bytes:
    """Raw samples have no header."""
    return b""


def _ogg_sum(page: bytes) -> int:
    """The checksum of an Ogg page: CRC-32 of polynomial 04c11db7, neither reflected nor inverted."""
    total = 0
    for byte in page:
        total ^= byte << 24
        for _ in range(8):
            total = (total << 1 ^ (0x04C11DB7 if total & 1 << 31 else 0)) & 0xFFFFFFFF
    return total


_CONTAINERS = MappingProxyType(
    {
        "mp4": _film(b"isomiso2avc1mp41"),
        "mov": _film(b"qt  "),
        "m4a": _boxes(b"M4A mp42isom"),
        "avif": _boxes(b"avifmif1miaf"),
        "webm": _webm,
        "wav": audio.wav,
        "mp3": _mp3,
        "mp3-bare": _mp3_bare,
        "aac": _aac,
        "flac": _flac,
        "ogg": _ogg,
        "pcm": _pcm,
    }
)
_PICTURES = MappingProxyType({"png": images.png, "jpg": images.jpg, "gif": images.gif, "webp": images.webp})
FORMS = frozenset(_CONTAINERS) | frozenset(_PICTURES)


def head(form: str, size: int, hue: int) -> bytes:
    """The first bytes of a file of `size` bytes; `form` is one of `FORMS`."""
    if form in _PICTURES:
        return _PICTURES[form](hue)
    return _CONTAINERS[form](size)
