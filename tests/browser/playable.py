"""Results that a browser can show: a generated picture and sound, and a film that the browser records."""

from __future__ import annotations

import base64
import io
import math
import struct
import wave
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from playwright.async_api import Page

from reconciler.simulator import MediaSpec

_RECORD = """async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 160, height: 90 });
  const pen = canvas.getContext("2d");
  const recorder = new MediaRecorder(canvas.captureStream(25), { mimeType: "video/webm;codecs=vp8" });
  const pieces = [];
  recorder.ondataavailable = (event) => pieces.push(event.data);
  const stopped = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.start();
  const began = performance.now();
  await new Promise((resolve) => {
    const draw = () => {
      const seconds = (performance.now() - began) / 1000;
      pen.fillStyle = "#1e2a4a";
      pen.fillRect(0, 0, 160, 90);
      pen.fillStyle = "#ffb86b";
      pen.fillRect(20 + 90 * seconds, 30, 30, 30);
      seconds < 1 ? requestAnimationFrame(draw) : resolve();
    };
    draw();
  });
  recorder.stop();
  await stopped;
  return btoa(String.fromCharCode(...new Uint8Array(await new Blob(pieces).arrayBuffer())));
}"""


@dataclass(frozen=True, slots=True)
class FixedMedia(MediaSpec):
    """A result with the given bytes."""

    body: bytes = b""

    def chunks(self, task: str, n: int, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
        yield memoryview(self.body)[start:end]


def picture(hue: float = 0.0, width: int = 120, height: int = 120) -> FixedMedia:
    """Return a PNG of soft waves; `hue` from 0 to 1 makes pictures differ."""

    def row(y: int) -> bytes:
        waves = (0.5 + 0.5 * math.sin(6 * x / width + 3 * y / height + 6 * hue) for x in range(width))
        return b"\0" + b"".join(bytes((int(60 + 180 * w), int(80 + 60 * hue * w), int(160 - 100 * w))) for w in waves)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(map(row, range(height))))
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return FixedMedia(kind="image", ext="png", size=len(body), body=body)


def sound(seconds: float = 2.0) -> FixedMedia:
    """Return a WAV of one tone."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(n / 5))) for n in range(int(8000 * seconds))))
    body = file.getvalue()
    return FixedMedia(kind="audio", ext="wav", size=len(body), body=body)


async def film(page: Page) -> FixedMedia:
    """Return a WebM of one second, recorded by this page's browser."""
    body = base64.b64decode(await page.evaluate(_RECORD))
    return FixedMedia(kind="video", ext="webm", size=len(body), body=body)
