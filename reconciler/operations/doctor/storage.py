"""The bucket: whether it is there, what it takes, and how a probe object fared in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from reconciler.domain.object_keys import TYPES, Kind
from reconciler.operations.doctor import Check, NotKnown, fail, not_looked, ok, warn

MIB: Final = 1 << 20

PRIVATE: Final = "bucket_private"
"""The code under which a bucket is known that strangers cannot read from."""

ORDINARY: Final[Mapping[Kind, int]] = MappingProxyType(
    {Kind.IMAGE: 10 * MIB, Kind.AUDIO: 10 * MIB, Kind.VIDEO: 50 * MIB}
)
"""Bytes that a result of each kind may well have."""


@dataclass(frozen=True, slots=True)
class BucketRules:
    """What the bucket takes; None means anything."""

    types: tuple[str, ...] | None = None
    size: int | None = None

    def takes(self, mime: str) -> bool:
        """Whether a type is let in, by its name or by a wildcard."""
        return self.types is None or mime in self.types or f"{mime.partition('/')[0]}/*" in self.types


@dataclass(frozen=True, slots=True)
class BucketUse:
    """What is made here: kinds of rows, types and the largest size in bytes of what was stored lately."""

    kinds: frozenset[Kind] = frozenset(Kind)
    types: frozenset[str] = frozenset()
    largest: int = 0


@dataclass(frozen=True, slots=True)
class StorageProbe:
    """How a small object fared; None: not tried. `read` is what is wrong with reading it, empty where nothing is."""

    stored: NotKnown | None = None
    read: str | None = None
    removed: NotKnown | None = None


def bucket(found: NotKnown | None, name: str) -> Check:
    """Judge the bucket itself; `found` is what is wrong with it, None where nothing is."""
    if found is None:
        return ok("bucket", f"{name} is there and can be used")
    if found.code == PRIVATE:
        return fail("bucket", found.why, f"UPDATE storage.buckets SET public = true WHERE id = {_quoted(name)};")
    return fail("bucket", found.why, found.do or "See SUPABASE_URL, this machine's network, and the project's status.")


def bucket_rules(rules: BucketRules, use: BucketUse | NotKnown, name: str) -> Check:
    """Judge what the bucket takes against what is made here."""
    if isinstance(use, NotKnown):
        return not_looked("bucket_rules", f"what is made here is not known ({use.why})")
    refused = sorted(mime for mime in use.types if not rules.takes(mime))
    shut = sorted(kind.value for kind in use.kinds if not any(rules.takes(mime) for mime in _types(kind)))
    if refused or shut:
        told = ", ".join([*refused, *(f"every {kind}" for kind in shut)])
        wanted = sorted({*refused, *(mime for kind in use.kinds for mime in _types(kind)), *(rules.types or ())})
        return fail("bucket_rules", f"bucket {name} refuses {told}", _allow(name, wanted))
    if rules.size is not None and rules.size < use.largest:
        says = f"bucket {name} takes at most {_mib(rules.size)}, and results of {_mib(use.largest)} were stored lately"
        return fail("bucket_rules", says, _enlarge(name))
    partly = sorted(mime for kind in use.kinds for mime in _types(kind) if not rules.takes(mime))
    if partly:
        wanted = sorted({*partly, *(rules.types or ())})
        return warn("bucket_rules", f"bucket {name} refuses {', '.join(partly)}", _allow(name, wanted))
    needed = max((ORDINARY[kind] for kind in use.kinds), default=0)
    if rules.size is not None and rules.size < needed:
        says = f"bucket {name} takes at most {_mib(rules.size)}, and {_mib(needed)} are nothing unusual here"
        return warn("bucket_rules", says, _enlarge(name))
    size = "any size" if rules.size is None else f"at most {_mib(rules.size)}"
    return ok("bucket_rules", f"takes {', '.join(sorted(kind.value for kind in use.kinds))}; {size}")


def upload(probe: StorageProbe) -> Check:
    """Judge whether an object can be stored and is then proven to be there."""
    if probe.stored is not None:
        return fail("upload", f"a probe object was not stored: {probe.stored.why}", probe.stored.do)
    return ok("upload", "a probe object was stored and proven")


def public_read(probe: StorageProbe, *, local: bool) -> Check:
    """Judge whether anybody can read what is stored; where we serve it ourselves, `local`, the daemon must run."""
    if probe.stored is not None:
        return not_looked("public_read", "nothing could be stored")
    if not probe.read:
        return ok("public_read", "anybody can read it at its public address")
    if local:
        do = "Start the daemon, which serves these files, and see RECONCILER_PUBLIC_URL."
        return warn("public_read", f"the probe cannot be read at its address: {probe.read}", do)
    do = "Make the bucket public, and see that SUPABASE_URL is the address browsers use."
    return fail("public_read", f"the probe cannot be read at its public address: {probe.read}", do)


def delete(probe: StorageProbe, path: str) -> Check:
    """Judge whether the probe is gone again."""
    if probe.removed is not None:
        do = " ".join(part for part in (probe.removed.do, f"Then remove {path} by hand.") if part)
        return fail("delete", f"the probe object could not be removed: {probe.removed.why}", do)
    if probe.stored is not None:
        return ok("delete", "nothing of the probe is left")
    return ok("delete", "the probe object was removed")


def probe_type(rules: BucketRules) -> str:
    """Return the type that a probe pretends to be: one the bucket takes, if it takes any."""
    return next((mime for mime in TYPES if rules.takes(mime)), "image/png")


def _types(kind: Kind) -> list[str]:
    return [mime for mime, (of, _) in TYPES.items() if of is kind]


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size >= MIB // 10 else f"{size} bytes"


def _allow(name: str, types: Sequence[str]) -> str:
    listed = ", ".join(_quoted(mime) for mime in types)
    return f"UPDATE storage.buckets SET allowed_mime_types = ARRAY[{listed}] WHERE id = {_quoted(name)};"


def _enlarge(name: str) -> str:
    return f"UPDATE storage.buckets SET file_size_limit = NULL WHERE id = {_quoted(name)};"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
