"""Kinds, media types, object keys in the bucket, and rules about addresses: hosts, displayed address, callback address.

Pure: no bytes are read (`media/sniff.py` does that) and no name is resolved. Fetch and deliver use the types and keys,
createTask the words for kinds, the HTTP API the displayed address, visits, sweep and backfill the rules about the
provider's addresses.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, urlencode, urlsplit


class Kind(StrEnum):
    """The kind of a result, from its sniffed type: a folder in the bucket and a label of metrics.

    TEXT is words, FILE every document that is neither words nor media.
    """

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    TEXT = "text"
    FILE = "file"


KIND_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        Kind.IMAGE: ("image", "photo", "picture", "product"),
        Kind.VIDEO: ("video", "movie", "clip"),
        Kind.AUDIO: ("audio", "music", "sound", "song"),
    }
)
"""The words of applications for the kinds that a row can order, the preferred one first."""

MEDIA_KINDS = frozenset({Kind.IMAGE, Kind.VIDEO, Kind.AUDIO})
"""The kinds that a row can order; words and files may come with any of them."""

OCTETS = "application/octet-stream"
"""A Content-Type that every browser saves, and none shows or runs."""

PCM = "audio/pcm"
"""Raw sound without a header: its bytes show no type, so only an announcement can name it."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """How files of one type are stored, and how browsers get them.

    `served_as` is the Content-Type; it differs from the type where a browser would run such a file. `attachment` says
    that our own web server tells browsers to save the file.
    """

    kind: Kind
    ext: str
    served_as: str
    attachment: bool = True


_SHOWN = {
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
# SVG and PDF may hold scripts. A public object of Supabase Storage has no header besides its Content-Type that could
# keep a browser from running them, so they are stored as bytes without a meaning.
_SAVED = {
    "image/tiff": (Kind.IMAGE, "tiff", "image/tiff"),
    "image/vnd.adobe.photoshop": (Kind.IMAGE, "psd", "image/vnd.adobe.photoshop"),
    "image/svg+xml": (Kind.IMAGE, "svg", OCTETS),
    "audio/aiff": (Kind.AUDIO, "aiff", "audio/aiff"),
    "audio/midi": (Kind.AUDIO, "mid", "audio/midi"),
    PCM: (Kind.AUDIO, "pcm", OCTETS),
    "text/plain": (Kind.TEXT, "txt", "text/plain; charset=utf-8"),
    "application/json": (Kind.TEXT, "json", "application/json"),
    "application/x-subrip": (Kind.TEXT, "srt", "application/x-subrip"),
    "text/vtt": (Kind.TEXT, "vtt", "text/vtt"),
    "application/pdf": (Kind.FILE, "pdf", OCTETS),
    "application/zip": (Kind.FILE, "zip", "application/zip"),
    "model/gltf-binary": (Kind.FILE, "glb", "model/gltf-binary"),
}

TYPES: Mapping[str, MediaType] = MappingProxyType(
    {
        **{mime: MediaType(kind, ext, mime, attachment=False) for mime, (kind, ext) in _SHOWN.items()},
        **{mime: MediaType(*stored) for mime, stored in _SAVED.items()},
    }
)
"""The types that are stored; RECONCILER_EXTRA_TYPES adds more."""

PROVIDER_HOSTS = ("aiquickdraw.com", "kie.ai", "redpandaai.co", "suno.ai")
"""The hosts of KIE's results, as suffixes."""

AMBIGUOUS_CHARACTERS = re.compile(r"[\s\\\x00-\x1f\x7f]")
"""Different URL parsers read whitespace, control characters and backslashes differently."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_REPLACED_ID = re.compile(r".*\.[0-9a-f]{32}")
_OBJECT_NUMBER = re.compile(r"([0-9]{1,4})(?:-[0-9a-f]{8})?\.")
_KEY = re.compile(r"[^/]+/[^/]+/([^/]+)_[0-9]{1,4}(?:-[0-9a-f]{8})?\.[^./]+")
_UNWRITABLE = re.compile(r"[^A-Za-z0-9_-]")


def kind_word(kind: str, allowed: AbstractSet[str] | None) -> str | None:
    """Return the word for this kind in a column that allows these words (None: any); None if it allows none for it."""
    return next((word for word in KIND_WORDS.get(kind, (kind,)) if allowed is None or word in allowed), None)


def extra_type(ext: str) -> MediaType:
    """Return how a type is stored that only the operator's setting names."""
    return MediaType(Kind.FILE, ext, OCTETS)


def kind_of(mime: str) -> Kind:
    """Return the kind of a stored type; one that only a setting names is a file."""
    return TYPES[mime].kind if mime in TYPES else Kind.FILE


def content_type(mime: str) -> str:
    """Return the Content-Type under which a file of this type is stored and served."""
    return TYPES[mime].served_as if mime in TYPES else OCTETS


def object_key(
    *, user_id: str | None, kind: Kind, generation_id: str, n: int, ext: str, replaces: str | None = None
) -> str:
    """Return the key of result `n` in the bucket; a retry of the same result gets the same key.

    Two different pairs of ids never share a key. `replaces` is given where an address of this result may have been
    shown with other bytes: text that tells the new object from the former one, so that no cache shows the former.
    """
    owner = "_" if user_id is None else path_segment(user_id)
    mark = "" if replaces is None else f"-{hashlib.sha256(replaces.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{owner}/{kind.value}/{path_segment(generation_id)}_{n}{mark}.{ext}"


def is_object_of(generation_id: str, address: str | None) -> bool:
    """Return whether the address names an object of this generation in our bucket, by the form of its key."""
    return object_number(generation_id, address) is not None


def object_number(generation_id: str, address: str | None) -> int | None:
    """Return the number of the result whose object the address names; None if it names none of this generation."""
    _, found, rest = (address or "").rpartition(f"/{path_segment(generation_id)}_")
    number = _OBJECT_NUMBER.match(rest) if found else None
    return int(number[1]) if number else None


def generation_of(key: str) -> str | None:
    """Return the id of the generation whose object has this key; None where the key does not hold it."""
    found = _KEY.fullmatch(key)
    return None if found is None or _REPLACED_ID.fullmatch(found[1]) else found[1]


def path_segment(name: str) -> str:
    """Return one part of a key that stands for this id, and for no other."""
    # "_" stands for a row without a user, and an id that looks like a replacement could be that of another id.
    if name != "_" and _PLAIN_ID.fullmatch(name) and not _REPLACED_ID.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_UNWRITABLE.sub('-', name)[:64] or '-'}.{digest}"


def display_url(asset_url: str | None, result_urls: Sequence[str] | None, preview_url: str | None) -> str | None:
    """Return the address to show: the stored object, else the provider's first result, else the preview.

    Addresses that are not http or https are skipped: rows are hostile input.
    """
    for url in (asset_url, *(result_urls or ())[:1], preview_url):
        if url and _host(url):
            return url
    return None


def host_listed(url: str, suffixes: Sequence[str]) -> bool:
    """Return whether the address is on one of these hosts or a subdomain; `*` matches every host."""
    host = _host(url)
    return host is not None and any(suffix == "*" or _is_host_or_subdomain(host, suffix) for suffix in suffixes)


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Which addresses are the provider's: those on `provider_hosts`, and results'; none that begins with `storage`.

    `storage` is what every address in our storage begins with, empty if it is not known.
    """

    provider_hosts: tuple[str, ...] = ()
    storage: str = ""

    def at_provider(self, generation_id: str, address: str | None, *, is_result: bool) -> bool:
        """Return whether the row shows an address at the provider, where it expires; it is ours to replace then.

        `is_result` is whether the address is one of the row's result_urls, or of those that KIE gave for its task.
        Any other address outside the provider's hosts is the application's decision.
        """
        if not address or _host(address) is None or (self.storage and address.startswith(self.storage)):
            return False
        if points_at_provider(address, self.provider_hosts):
            return True
        # An object of ours may be shown from another host than our storage's.
        return is_result and not is_object_of(generation_id, address)


def points_at_provider(url: str | None, suffixes: Sequence[str]) -> bool:
    """Return whether the address is on one of the provider's hosts, where it expires.

    `*` allows fetching from every host, but does not make every host the provider's: it is ignored here. Without any
    other suffix, PROVIDER_HOSTS count.
    """
    hosts = [suffix for suffix in suffixes if suffix != "*"] or PROVIDER_HOSTS
    return url is not None and host_listed(url, hosts)


CALLBACK_PATH = "/api/kie/callback"


def callback_address(base: str, secret: str, generation_id: str) -> str:
    """Return the address at which KIE calls back about one generation; `base` may hold CALLBACK_PATH already.

    Never log it: it contains the secret, if there is one.
    """
    parts = urlsplit(base)
    path = parts.path.rstrip("/")
    credentials = {"secret": secret} if secret else {}
    query = {**dict(parse_qsl(parts.query)), **credentials, "generation": generation_id}
    callback_path = path if path.endswith(CALLBACK_PATH) else path + CALLBACK_PATH
    return parts._replace(path=callback_path, query=urlencode(query, quote_via=quote), fragment="").geturl()


def _is_host_or_subdomain(host: str, suffix: str) -> bool:
    suffix = suffix.strip().strip(".").lower()
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))


def _host(url: str) -> str | None:
    if AMBIGUOUS_CHARACTERS.search(url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return None
    return parts.hostname.rstrip(".") or None
