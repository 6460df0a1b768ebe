"""Searches a record for results in fields that no dialect names, where the known places announce nothing.

Addresses of inputs, posters, streams and of the request itself are never results. Words in an unknown field are not
taken for a result, but they are named: a success with output that we cannot read is no success without output. Pure and
total. `outcome` and the dialects call this.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from reconciler.domain.model import Result
from reconciler.domain.results import position_key
from reconciler.kie.dialects.documents import MAX_NODES, is_address
from reconciler.kie.dialects.parsing import MALFORMED, parse_nested
from reconciler.kie.dialects.places import Found, usable

MAX_DEPTH = 32

_LONGEST_NAME = 120
_NAMED = 5
_TOO_MUCH: Final = object()

OUTPUT_FIELDS = (
    "resultJson", "resultInfoJson", "response", "videoInfo", "info", "resultObject", "result", "output", "midiData",
)  # fmt: skip
"""The fields of a record that hold what the task made; only in these can words be output."""

# Of names in lower case without separators.
_NEVER = re.compile(
    r"param|callback|webhook|origin|input|poster|thumb|preview|stream|reference|frame|prompt|avatar|upload|watermark"
    r"|cover|source(?!audio)"
)
_IMAGE = re.compile(r"image|picture|photo")
_MOVING = re.compile(r"video|audio|music|song")
_METADATA = re.compile(
    r"id$|ids$|^(code|msg|message|status|state|model|modelname|type|kind|operationtype|successflag|progress|resolution"
    r"|language|title|tags|style|name|version|seed|ratio|aspectratio|size|format|quality)$"
    r"|time$|date$|^fail|^error|^created|^updated|^completed"
)


def search(record: Mapping[str, object], *, posters: bool) -> Found:
    """Return the addresses in any field that can hold a result, else the fields that hold words.

    `posters` is true for a dialect of films and sounds: there every image is a poster.
    """
    results: dict[str, Result] = {}
    words: dict[str, None] = {}
    for path, value in _fields(record, posters=posters):
        if value is _TOO_MUCH or len(path) > MAX_DEPTH:
            return Found(unreadable=path[:1] or ("record",))
        if value is MALFORMED and path[0] in OUTPUT_FIELDS:
            return Found(unreadable=(".".join(path),))
        if not isinstance(value, str) or not value.strip():
            continue
        if not is_address(value):
            if len(words) < _NAMED and _is_output(path):
                words[".".join(path)] = None
        elif (address := usable(value)) is None:
            return Found(unreadable=(".".join(path),))
        elif address not in results:
            results[address] = Result(position_key(len(results)), len(results), (address,))
    return Found(tuple(results.values())) if results else Found(unreadable=tuple(words))


def fields_with_addresses(record: Mapping[str, object], *, posters: bool) -> tuple[str, ...]:
    """Return the fields, five at most, that hold an address which can be one of a result; `posters` as in `search`."""
    named = (
        ".".join(path)
        for path, value in _fields(record, posters=posters)
        if len(path) <= MAX_DEPTH and isinstance(value, str) and is_address(value)
    )
    return tuple(dict.fromkeys(islice(named, _NAMED)))


def can_be_result(name: str, *, posters: bool) -> bool:
    """Return whether a field of this name can hold a result: it is not one of an input, a poster or a stream."""
    return _can_be_result(_plain(name), posters=posters)


def _can_be_result(plain: str, *, posters: bool) -> bool:
    return not (_NEVER.search(plain) or (posters and _IMAGE.search(plain)))


def _fields(record: Mapping[str, object], *, posters: bool) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every value that could be output, with the names that lead to it; MALFORMED for text that is no JSON.

    _TOO_MUCH means that the record has more than MAX_NODES values, also such as are no output: the caller stops.
    """
    nodes: list[tuple[tuple[str, ...], object]] = [((), record)]
    count = 0
    while nodes:
        path, value = nodes.pop()
        # A text that begins like JSON is read, also one within another; any other text is a word.
        while isinstance(value, str) and value.lstrip()[:1] in {"{", "[", '"'}:
            value = parse_nested(value)
        if isinstance(value, Mapping | list):
            count += len(value)
            if count > MAX_NODES:
                yield path, _TOO_MUCH
        if path:
            yield path, value
        if isinstance(value, Mapping):
            nodes += [((*path, name), inner) for name, inner in _output_fields(path, value, posters)][::-1]
        elif isinstance(value, list):
            nodes += [(path, inner) for inner in reversed(value)]


def _output_fields(path: tuple[str, ...], value: Mapping[str, object], posters: bool) -> list[tuple[str, object]]:
    """Return the fields of an object that can hold output; in it, an image beside a film or a sound is a poster."""
    fields = [(str(name)[:_LONGEST_NAME], inner) for name, inner in value.items()]
    plain = [_plain(name) for name, _ in fields]
    posters = posters or (bool(path) and any(map(_MOVING.search, plain)))
    return [field for name, field in zip(plain, fields, strict=True) if _can_be_result(name, posters=posters)]


def _is_output(path: tuple[str, ...]) -> bool:
    return path[0] in OUTPUT_FIELDS and not _METADATA.search(_plain(path[-1]))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
