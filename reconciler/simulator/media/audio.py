"""A soft tone as MP3 frames and as WAV, built by the rules of the formats.

An MP3 frame says how many of its bits are sound, and decoders skip the rest, which holds the filler. Pure.
`file_headers.py` and `files.py` call it.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache

FRAME = 384
"""Bytes of an MP3 frame: 24 ms of one channel at 48 kHz and 128 kbit/s; what a `lead` leaves of it is free."""

_SAMPLES = 8000
_LOUDNESS = 196


def frame_start(n: int) -> bytes:
    """The first 25 bytes of MP3 frame `n`: header, side information, and two granules of sound.

    ISO 11172-3, layer III. One spectral line of 437.5 Hz; a steady tone turns a quarter from granule to granule.
    """
    bits = "0" * 18
    for _ in range(2):
        # 13 bits of sound at this loudness, no big values, and the fixed code for fours of small values.
        bits += f"{13:012b}" + f"{0:09b}" + f"{_LOUDNESS:08b}" + "0" * 29 + "1"
    for sign in ("01", "10")[n % 2]:
        bits += "1111" + "1111" + "1101" + sign
    bits += "0" * (-len(bits) % 8)
    return b"\xff\xfb\x94\xc0" + int(bits, 2).to_bytes(len(bits) // 8)


def id3(title: bytes) -> bytes:
    """An ID3v2.3 tag as long as one frame, so that frames stand where they would without it."""
    text = b"\0" + title
    body = b"TIT2" + struct.pack(">IH", len(text), 0) + text
    size = FRAME - 10
    return b"ID3\x03\0\0" + bytes([0, 0, size >> 7, size & 0x7F]) + body.ljust(size, b"\0")


def wav(size: int) -> bytes:
    """A WAV of two seconds or half the file, 16 bits at 8 kHz, and the head of a chunk that players skip."""
    sound = _tone()[: size // 2 & ~1]
    whole = min(max(size - 8, 0), 0xFFFFFFFF)
    shape = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _SAMPLES, 2 * _SAMPLES, 2, 16)
    begun = struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + shape + struct.pack("<4sI", b"data", len(sound)) + sound
    return begun + struct.pack("<4sI", b"JUNK", max(whole - len(begun), 0))


@lru_cache(maxsize=1)
def _tone() -> bytes:
    count = 2 * _SAMPLES
    waves = (math.sin(2 * math.pi * 437.5 * n / _SAMPLES) * math.sin(math.pi * n / count) for n in range(count))
    return struct.pack(f"<{count}h", *(int(3000 * wave) for wave in waves))
