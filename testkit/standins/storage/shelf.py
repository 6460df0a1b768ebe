"""Keeps the bytes: small objects in memory, large ones on disk; `history` lists every write."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

SMALL = 8 << 20
MEMORY = 256 << 20


@dataclass(slots=True)
class Bucket:
    public: bool = True
    allowed_mime_types: list[str] | None = None
    file_size_limit: int | None = None

    def takes(self, mime: str) -> bool:
        """Raw and resumable uploads are compared literally; only the wildcard of a whole family helps."""
        if self.allowed_mime_types is None:
            return True
        family = mime.partition("/")[0] + "/*"
        return mime in self.allowed_mime_types or family in self.allowed_mime_types


@dataclass(slots=True)
class Thing:
    """One stored object."""

    id: str
    version: str
    size: int
    mime: str
    md5: str
    etag: str
    cache_control: str
    metadata: Mapping[str, object]
    created_at: datetime
    updated_at: datetime
    content: bytes | Path | None

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        assert self.content is not None, "this storage keeps no bytes"
        end = self.size if end is None else end
        if isinstance(self.content, bytes):
            yield self.content[start:end]
            return
        with self.content.open("rb") as file:
            file.seek(start)
            while start < end and (piece := file.read(min(1 << 20, end - start))):
                start += len(piece)
                yield piece

    def read(self) -> bytes:
        return b"".join(self.pieces())

    @property
    def sha256(self) -> str:
        found = hashlib.sha256()
        for piece in self.pieces():
            found.update(piece)
        return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Written:
    """One version that was ever written, kept for ever."""

    version: str
    size: int
    md5: str
    mime: str
    metadata: Mapping[str, object]
    way: str


class Parcel:
    """Bytes on their way in, counted and hashed only unless `kept`."""

    def __init__(self, folder: Path, *, on_disk: bool = False, kept: bool = True) -> None:
        self._folder = folder
        self._kept = kept
        self._small = bytearray()
        self._path: Path | None = None
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._on_disk = on_disk

    def write(self, piece: bytes) -> None:
        self.size += len(piece)
        self._md5.update(piece)
        if not self._kept:
            return
        if self._path is None and not self._on_disk and self.size <= SMALL:
            self._small += piece
            return
        if self._path is None:
            self._path = self._folder / uuid.uuid4().hex
            self._path.write_bytes(self._small)
            self._small = bytearray()
        with self._path.open("ab") as file:
            file.write(piece)

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    def content(self) -> bytes | Path | None:
        if not self._kept:
            return None
        return bytes(self._small) if self._path is None else self._path

    def drop(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@dataclass(slots=True)
class Shelf:
    """All objects by `bucket/path`."""

    objects: dict[str, Thing] = field(default_factory=dict)
    history: dict[str, list[Written]] = field(default_factory=lambda: defaultdict(list))
    etag_of_parts: bool = False
    keeps: bool = True
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="storage-standin-")
    )
    _in_memory: int = 0

    def parcel(self) -> Parcel:
        return Parcel(Path(self._folder.name), on_disk=self._in_memory > MEMORY, kept=self.keeps)

    def put(
        self, name: str, parcel: Parcel, *, mime: str, cache: str, metadata: Mapping[str, object], way: str
    ) -> Thing:
        """Replaces what was there; the row keeps its id and gets a new version."""
        now, old = datetime.now(UTC), self.objects.get(name)
        self._forget(name)
        etag = f'"{parcel.md5}-2"' if self.etag_of_parts else f'"{parcel.md5}"'
        thing = Thing(
            id=old.id if old else str(uuid.uuid4()),
            version=str(uuid.uuid4()),
            size=parcel.size,
            mime=mime,
            md5=parcel.md5,
            etag=etag,
            cache_control=cache,
            metadata=metadata,
            created_at=old.created_at if old else now,
            updated_at=now,
            content=parcel.content(),
        )
        self.objects[name] = thing
        if isinstance(thing.content, bytes):
            self._in_memory += thing.size
        self.history[name].append(Written(thing.version, thing.size, thing.md5, mime, metadata, way))
        return thing

    def remove(self, name: str) -> Thing | None:
        self._forget(name)
        return self.objects.pop(name, None)

    def _forget(self, name: str) -> None:
        old = self.objects.get(name)
        if old is None:
            return
        if isinstance(old.content, bytes):
            self._in_memory -= old.size
        elif old.content is not None:
            old.content.unlink(missing_ok=True)

    def twice(self) -> dict[str, set[str]]:
        """The names that were ever written with more than one content."""
        contents = {name: {w.md5 for w in all_} for name, all_ in self.history.items()}
        return {name: hashes for name, hashes in contents.items() if len(hashes) > 1}

    def close(self) -> None:
        self._folder.cleanup()
