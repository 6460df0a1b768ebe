"""The places of a record where a dialect expects results, and what each of them announces.

A list announces a result with every entry, also with one that is null: that result has not arrived yet. A single field
announces a result only with a value. Each result carries KIE's own id where its entry has one. Only the dialects and
`outcome` use this; other places are searched by `search`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

from reconciler.domain.model import Result
from reconciler.domain.results import position_key
from reconciler.kie.dialects.parsing import get_path, parse_nested

Record = Mapping[str, object]

MAX_ADDRESS = 4096

MAX_ENTRIES = 2000
"""No more entries of a list are read: that is more than any setting allows, and a hostile list takes seconds."""

AUDIO_KEYS = (("audioUrl", "audio_url", "sourceAudioUrl", "source_audio_url"),)
"""Where a Suno track holds its audio: its stream and its image are no results."""

ADDRESS_KEYS: tuple[tuple[str, ...], ...] = (
    ("resultUrl",), ("resultVideoUrl", "videoUrl", "video_url"), *AUDIO_KEYS, ("url",), ("maskUrl", "mask_url"),
    ("resultImageUrl", "imageUrl", "image_url"),
)  # fmt: skip
"""Where an object holds its address. The names of one group are alternatives; the first group with a value counts.

An object can hold a poster next to its video or audio, so the image keys come last."""


@dataclass(frozen=True, slots=True)
class Found:
    """The results that a place announces, and the fields in it that cannot be read."""

    results: tuple[Result, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether at least one result can be stored."""
        return any(result.available for result in self.results)


Place = Callable[[Record], Found]

NOTHING = Found()


def listed(*path: str) -> Place:
    """Return a place that holds a list of addresses, or of objects with an address; one address is a list of one."""
    return lambda record: _read(get_path(record, *path), ".".join(path), ADDRESS_KEYS)


def tracks(*path: str) -> Place:
    """Return a place that holds a list of Suno's tracks; a track without an address of its audio has not arrived."""
    return lambda record: _read(get_path(record, *path), ".".join(path), AUDIO_KEYS)


def each_named(*path: str, wanted: Callable[[str], bool]) -> Place:
    """Return a place whose every field with a wanted name holds one address; the name is the result's id."""

    def read(record: Record) -> Found:
        value = parse_nested(get_path(record, *path))
        if value is None:
            return NOTHING
        if not isinstance(value, Mapping):
            return Found(unreadable=(".".join(path),))
        # `id` makes the field's name the key of its result.
        entries = [{"id": name, "url": address} for name, address in value.items() if address and wanted(name)]
        return read_entries(entries, ".".join(path), ADDRESS_KEYS)

    return read


def _read(value: object, field: str, keys: Sequence[Sequence[str]]) -> Found:
    # KIE also writes a list as the text of its JSON.
    value = parse_nested(value)
    if isinstance(value, list):
        return read_entries(value, field, keys)
    if value is None or (isinstance(value, Mapping) and not _has_key(value, keys)):
        # An object of another form may hold results elsewhere: the search looks.
        return NOTHING
    found = read_entries([value], field, keys)
    # One that is no list is a single field, and announces nothing without a value.
    return found if found.available or found.unreadable else NOTHING


def read_entries(entries: Iterable[object], field: str, keys: Sequence[Sequence[str]] = ADDRESS_KEYS) -> Found:
    """Return one result for each of the first MAX_ENTRIES, repeated addresses once; `field` names the place.

    One entry that cannot be read is named: a part of the results would be taken for all.
    """
    results: list[Result] = []
    seen: set[str] = set()
    keys_used: set[str] = set()
    for entry in map(parse_nested, islice(entries, MAX_ENTRIES)):
        addresses = _addresses(entry, keys)
        if addresses is None:
            return Found(unreadable=(field,))
        if addresses and addresses[0] in seen:
            continue
        seen.update(addresses[:1])
        position = len(results)
        named = _identity(entry)
        # An id that repeats tells nothing apart.
        key = named if named is not None and named not in keys_used else position_key(position)
        keys_used.add(key)
        results.append(Result(key, position, addresses))
    return Found(tuple(results))


def usable(address: str) -> str | None:
    """Return the address, escaped where it needs that; None if it is no address that can be fetched."""
    address = address.strip().replace(" ", "%20")
    if len(address) > MAX_ADDRESS or "\\" in address or not address.isprintable():
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    return address if parts.scheme in {"http", "https"} and parts.hostname else None


def _addresses(entry: object, keys: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """Return the addresses of one entry, () for one that has none yet, None for one that cannot be read."""
    if entry is None:
        return ()
    if isinstance(entry, Mapping):
        if not _has_key(entry, keys):
            return () if keys is AUDIO_KEYS else None
        group = next((group for group in keys if any(entry.get(key) is not None for key in group)), ())
        values = [value for key in group if (value := parse_nested(entry.get(key))) is not None]
    else:
        values = [entry]
    if not all(isinstance(value, str) for value in values):
        return None
    found = [usable(str(value)) for value in values]
    return None if None in found else tuple(dict.fromkeys(address for address in found if address))


def _has_key(entry: Mapping[str, object], keys: Sequence[Sequence[str]]) -> bool:
    return any(key in entry for group in keys for key in group)


def _identity(entry: object) -> str | None:
    """Return KIE's own id of the result; one that looks like a position is none."""
    named = entry.get("id") if isinstance(entry, Mapping) else None
    valid = isinstance(named, str) and 0 < len(named) <= 200 and named.isprintable() and not named.startswith("#")
    return named if valid else None
