"""Generates the bytes of result files: of any size, block by block, the same every time.

A file is a header of its type (`file_headers.py`) and filler that decoders skip, which differs between files and
blocks. Only a few headers and one block of filler are kept in memory. Documents (`documents.py`) are whole at once, and
small. `api/file_host.py` serves the files; tests and the demo compare results with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from reconciler.simulator.media import audio, documents, file_headers, images

BLOCK = 1 << 20
MIME = MappingProxyType(
    {
        "png": "image/png",
        "jpg": "image/jpeg",
        "gif": "image/gif",
        "webp": "image/webp",
        "avif": "image/avif",
        "mp4": "video/mp4",
        "mov": "video/quicktime",
        "webm": "video/webm",
        "mp3": "audio/mpeg",
        "wav": "audio/wav",
        "ogg": "audio/ogg",
        "flac": "audio/flac",
        "aac": "audio/aac",
        "m4a": "audio/mp4",
        "pcm": "audio/pcm",
        **documents.MIME,
    }
)


@dataclass(frozen=True, slots=True)
class MediaSpec:
    """One result of a task: its type and its size in bytes.

    `form` names a header of `file_headers.FORMS` or a document of `documents.FORMS` if the extension does not
    ("mp3-bare"). `path` fixes the path of the file. `ext` "" gives an address without an extension and needs a `form`.
    """

    kind: str = "image"
    ext: str = "png"
    size: int = 64_000
    form: str = ""
    path: str | None = None

    def __post_init__(self) -> None:
        if self.shape not in file_headers.FORMS | documents.FORMS:
            raise ValueError(f"no head is known for {self.shape!r}")
        if self.size < 0:
            raise ValueError("a file cannot be smaller than nothing")

    @property
    def shape(self) -> str:
        """The form of the file's head."""
        return self.form or {"jpeg": "jpg"}.get(self.ext, self.ext)

    @property
    def mime(self) -> str:
        """The Content-Type under which the file is served."""
        return MIME[self.shape.partition("-")[0]]

    def chunks(self, task: str, n: int, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
        """Bytes `start` to `end` (exclusive) of result `n` of a task, in pieces of at most 1 MiB."""
        end = self.size if end is None else min(end, self.size)
        stamp = _stamp(task, n)
        if self.shape in documents.FORMS:
            if start < end:
                yield memoryview(_document(self.shape, self.size, stamp.hex()))[start:end]
            return
        filler = _frames() if self.mime == "audio/mpeg" else _noise()
        turn = int.from_bytes(stamp[:4], "big") % BLOCK
        turn -= turn % filler.step
        while start < end:
            index, offset = divmod(start, BLOCK)
            length = min(BLOCK, end - index * BLOCK)
            phase = index * BLOCK % filler.step
            mark = filler.lead[phase:] + stamp + index.to_bytes(8, "big")
            head = self._head(stamp) + mark if index == 0 else mark
            noise = memoryview(filler.content)[turn + phase + len(head) : turn + phase + length]
            piece = memoryview(b"".join((head, noise)))[offset:length]
            yield piece
            start += len(piece)

    def _head(self, stamp: bytes) -> bytes:
        return _head(self.shape, self.size, stamp[0] % images.HUES)

    def sha256(self, task: str, n: int = 0) -> str:
        """The hexadecimal SHA-256 of the whole file, computed once."""
        return _digest(self, task, n, "sha256")

    def md5(self, task: str, n: int = 0) -> str:
        """The hexadecimal MD5 of the whole file, computed once."""
        return _digest(self, task, n, "md5")


@lru_cache(maxsize=512)
def _head(form: str, size: int, hue: int) -> bytes:
    return file_headers.head(form, size if form not in {"png", "jpg", "gif", "webp"} else 0, hue)


@lru_cache(maxsize=64)
def _document(form: str, size: int, stamp: str) -> bytes:
    return documents.document(form, size, stamp)


class _Filler(NamedTuple):
    """More than a block twice, so that every file can begin it somewhere else; frames of `step` bytes stay in step."""

    content: bytes
    step: int = 1
    lead: bytes = b""


@lru_cache(maxsize=1)
def _noise() -> _Filler:
    return _Filler(hashlib.shake_256(b"filler").digest(BLOCK) * 2)


@lru_cache(maxsize=1)
def _frames() -> _Filler:
    """The same noise in what MP3 frames have to spare."""
    step = audio.FRAME
    content = bytearray(_noise().content + bytes(step))
    for n in range(len(content) // step):
        lead = audio.frame_start(n)
        content[n * step : n * step + len(lead)] = lead
    return _Filler(bytes(content), step, audio.frame_start(0))


def _stamp(task: str, n: int) -> bytes:
    """What tells one file from all others: it turns the noise and marks every block."""
    return hashlib.blake2b(f"{task}/{n}".encode(), digest_size=16).digest()


@lru_cache(maxsize=65536)
def _digest(media: MediaSpec, task: str, n: int, algorithm: str) -> str:
    total = hashlib.new(algorithm, usedforsecurity=False)
    for chunk in media.chunks(task, n):
        total.update(chunk)
    return total.hexdigest()
