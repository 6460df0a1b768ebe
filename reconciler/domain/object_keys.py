"""Names and addresses: which types we keep, where an object lies, which address a reader sees.

No bytes are looked at here (media/sniff.py does) and nothing is resolved or connected to.
Called by fetch and deliver for types and keys, by the doors for what they show, by the sweep and
backfill for what still has to be healed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, urlencode, urlsplit


class Kind(StrEnum):
    """What a result is, by its sniffed type."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


TYPES: Mapping[str, tuple[Kind, str]] = MappingProxyType(
    {
        "image/png": (Kind.IMAGE, "png"),
        "image/jpeg": (Kind.IMAGE, "jpg"),
        "image/webp": (Kind.IMAGE, "webp"),
        "image/gif": (Kind.IMAGE, "gif"),
        "image/avif": (Kind.IMAGE, "avif"),
        "video/mp4": (Kind.VIDEO, "mp4"),
        "video/webm": (Kind.VIDEO, "webm"),
        "video/quicktime": (Kind.VIDEO, "mov"),
        "audio/mpeg": (Kind.AUDIO, "mp3"),
        "audio/wav": (Kind.AUDIO, "wav"),
        "audio/ogg": (Kind.AUDIO, "ogg"),
        "audio/flac": (Kind.AUDIO, "flac"),
        "audio/mp4": (Kind.AUDIO, "m4a"),
        "audio/aac": (Kind.AUDIO, "aac"),
    }
)
"""The sniffed types that are kept, each with its kind and extension."""

PROVIDER_HOSTS = (
    "aiquickdraw.com",
    "kie.ai",
    "redpandaai.co",
    "r2.cloudflarestorage.com",
    "suno.ai",
)
"""Where KIE keeps results, as suffixes."""

AMBIGUOUS = re.compile(r"[\s\\\x00-\x1f\x7f]")
"""Blanks, control characters and backslashes in an address are read differently by different parsers."""

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_MARKED = re.compile(r".*\.[0-9a-f]{32}")
_UNWRITABLE = re.compile(r"[^A-Za-z0-9_-]")


def object_key(*, user_id: str | None, kind: Kind, generation_id: str, n: int, ext: str) -> str:
    """The path of result `n` in the bucket; a retry of the same result gets the same path.

    Two different pairs of ids never share a path, whatever characters they are made of.
    """
    owner = "_" if user_id is None else segment(user_id)
    return f"{owner}/{kind.value}/{segment(generation_id)}_{n}.{ext}"


def segment(name: str) -> str:
    """One part of a path that stands for this id, and for no other."""
    # "_" stands for nobody, and what already looks like a replacement could be somebody's.
    if name != "_" and _PLAIN.fullmatch(name) and not _MARKED.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_UNWRITABLE.sub('-', name)[:64] or '-'}.{digest}"


def display_url(asset_url: str | None, result_urls: Sequence[str] | None, preview_url: str | None) -> str | None:
    """The address a reader is shown: our storage, else the provider's first, else the preview.

    Anything but an http or https address is passed over: rows are hostile input.
    """
    for url in (asset_url, *(result_urls or ())[:1], preview_url):
        if url and _host(url):
            return url
    return None


def host_listed(url: str, suffixes: Sequence[str]) -> bool:
    """Whether the address is on one of these hosts or below one; `*` lists every host."""
    host = _host(url)
    return host is not None and any(suffix == "*" or _below(host, suffix) for suffix in suffixes)


def points_at_provider(url: str | None, suffixes: Sequence[str]) -> bool:
    """Whether the address is the provider's own, which dies, and not our storage's.

    `*` says which results may be fetched, not who owns them; alone it means the known hosts.
    """
    named = [suffix for suffix in suffixes if suffix != "*"] or PROVIDER_HOSTS
    return url is not None and host_listed(url, named)


CALLBACK_PATH = "/api/kie/callback"


def callback_address(base: str, secret: str, generation_id: str) -> str:
    """Return where KIE calls back about one generation: `base` with or without the path, the secret where there is one.

    It holds a secret: never to be logged.
    """
    parts = urlsplit(base)
    path = parts.path.rstrip("/")
    proof = {"secret": secret} if secret else {}
    query = {**dict(parse_qsl(parts.query)), **proof, "generation": generation_id}
    whole = path if path.endswith(CALLBACK_PATH) else path + CALLBACK_PATH
    return parts._replace(path=whole, query=urlencode(query, quote_via=quote), fragment="").geturl()


def _below(host: str, suffix: str) -> bool:
    suffix = suffix.strip().strip(".").lower()
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))


def _host(url: str) -> str | None:
    # Backslashes and blanks are read differently by different clients: no host, so no trust.
    if AMBIGUOUS.search(url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return None
    return parts.hostname.rstrip(".") or None
