"""Small images that browsers can show, built by the rules of their formats.

Each is 96 by 96 pixels in one of a few colours; what follows them in a result file is filler, which decoders ignore.
Pure. Called by `file_headers.py`.
"""

from __future__ import annotations

import colorsys
import struct
import zlib
from collections.abc import Iterator

SIDE = 96
HUES = 24
Colour = tuple[int, int, int]


def _ramp(hue: int) -> list[Colour]:
    """128 colours from dark to light around one hue, as palette formats want them."""
    colours = []
    for step in range(128):
        turn = (hue / HUES + step / 700) % 1
        r, g, b = colorsys.hsv_to_rgb(turn, 0.75 - step / 300, 0.35 + step / 220)
        colours.append((int(r * 255), int(g * 255), int(b * 255)))
    return colours


def _rows() -> Iterator[bytes]:
    """Palette indices of a diagonal gradient, row by row."""
    line = bytes(i * 127 // (2 * SIDE - 2) for i in range(2 * SIDE))
    for y in range(SIDE):
        yield line[y : y + SIDE]


def png(hue: int) -> bytes:
    """A palette PNG, complete to IEND."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 3, 0, 0, 0)
    palette = bytes(part for colour in _ramp(hue) for part in colour)
    pixels = zlib.compress(b"".join(b"\0" + row for row in _rows()), 9)
    parts = chunk(b"IHDR", header) + chunk(b"PLTE", palette) + chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def gif(hue: int) -> bytes:
    """A GIF whose LZW codes are all 8 bits wide, because a clear code comes before the table can grow."""
    palette = bytes(part for colour in _ramp(hue) for part in colour)
    pixels = b"".join(_rows())
    codes = b"".join(b"\x80" + pixels[i : i + 120] for i in range(0, len(pixels), 120)) + b"\x81"
    blocks = (codes[i : i + 255] for i in range(0, len(codes), 255))
    body = b"".join(bytes([len(block)]) + block for block in blocks)
    screen = struct.pack("<HHBBB", SIDE, SIDE, 0xF6, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, SIDE, SIDE, 0)
    return b"GIF89a" + screen + palette + frame + b"\x07" + body + b"\0;"


def webp(hue: int) -> bytes:
    """A lossless WebP of one colour: five prefix codes of one symbol each, so that a pixel takes no bits."""
    red, green, blue = _ramp(hue)[64]
    bits = f"{SIDE - 1:014b}"[::-1] * 2 + "0000" + "000"
    for symbol in (green, red, blue, 255, 0):
        bits += "101" + f"{symbol:08b}"[::-1]
    bits += "0" * (-len(bits) % 8)
    body = b"\x2f" + int(bits[::-1], 2).to_bytes(len(bits) // 8, "little")
    body += b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def jpg(hue: int) -> bytes:
    """A baseline JPEG of flat 8 by 8 blocks: only DC differences, each followed by an end-of-block of one bit."""

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    frame = struct.pack(">BHHB", 8, SIDE, SIDE, 3) + b"\x01\x11\0\x02\x11\0\x03\x11\0"
    categories = b"\0\0\0\x0a" + bytes(12) + bytes(range(10))
    only_end = b"\x01" + bytes(15) + b"\0"
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"),
            segment(0xDB, b"\0" + bytes([8]) * 64),
            segment(0xC0, frame),
            segment(0xC4, b"\0" + categories + b"\x10" + only_end),
            segment(0xDA, b"\x03\x01\0\x02\0\x03\0\0\x3f\0"),
            _scan(hue),
            b"\xff\xd9",
        )
    )


def _scan(hue: int) -> bytes:
    ramp = [_ycc(colour) for colour in _ramp(hue)]
    tiles = SIDE // 8
    last = [128, 128, 128]
    bits = []
    for y in range(tiles):
        for x in range(tiles):
            colour = ramp[(x + y) * 127 // (2 * tiles - 2)]
            for part, value in enumerate(colour):
                bits.append(_difference(value - last[part]))
                last[part] = value
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    return int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")


def _ycc(colour: Colour) -> Colour:
    r, g, b = colour
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return round(luma), round(128 + (b - luma) * 0.564), round(128 + (r - luma) * 0.713)


def _difference(value: int) -> str:
    size = abs(value).bit_length()
    if size == 0:
        return "0000" + "0"
    written = value if value > 0 else value + (1 << size) - 1
    return f"{size:04b}{written:0{size}b}" + "0"
