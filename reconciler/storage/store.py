"""The protocol of every storage backend, its values, and the rule for keys of objects.

`supabase.py` and `local.py` implement it; deliver, the audit, prune and the doctor call it. Bytes come from a spool.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.domain.object_keys import content_type
from reconciler.errors import Permanent
from reconciler.media.spool import Spool

PIECE = 1 << 20
"""The bytes that a store reads at once, and from which on hashing runs in a thread."""

MISSING = "object_missing"
"""The error code for an object that does not exist; not Gone, which is about a source address."""

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What storage knows about one object; `metadata` is what we sent with it, and proves nothing about its bytes."""

    size: int
    etag: str | None
    version: str | None
    mime: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The proof of one object; `verified_by` is "etag-md5" or READ_BACK."""

    version: str | None
    verified_by: str


@dataclass(frozen=True, slots=True)
class PutRequest:
    """The object to store; `mime` is the type of its bytes, `lease` is written into its metadata.

    `upload` names a resumable upload of the same bytes that was started earlier.
    """

    path: str
    mime: str
    lease: str
    upload: str | None = None

    @property
    def content_type(self) -> str:
        """The Content-Type of the object: not its own type where a browser would run the file."""
        return content_type(self.mime)


class Store(Protocol):
    """A backend that stores objects, which browsers can read.

    Every call raises Transient if waiting may help, and Permanent if an operator must change something.
    """

    async def check(self) -> None:
        """Raise Config if the bucket, folder or key is wrong, Transient if storage is only unreachable."""
        ...

    async def put(
        self,
        request: PutRequest,
        spool: Spool,
        *,
        holds_lease: Callable[[], bool],
        upload_started: Callable[[str], Awaitable[None]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Store a sealed spool, replacing the object at its path.

        Before every piece `holds_lease` is called; if it returns False, LeaseLost is raised. `upload_started` gets the
        name of a resumable upload before its first byte is sent. `progress` gets (bytes stored, bytes in all).
        """
        ...

    async def stat(self, path: str) -> ObjectStat | None:
        """Return what storage knows about the object at this path, None if there is none."""
        ...

    def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes in pieces of about a MiB; raise Permanent (object_missing) if there is no object."""
        ...

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove these objects; a missing one is no error."""
        ...

    def address(self, path: str) -> str:
        """Return the address at which browsers read the object at this path."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


def checked_path(path: str) -> str:
    """Return the path; raise Permanent (bad_path) unless every backend takes it literally: ids and slashes only."""
    if not _PATH.fullmatch(path) or len(path) > 900:
        raise Permanent(f"not a path for storage: {path[:100]!r}", code="bad_path")
    return path
