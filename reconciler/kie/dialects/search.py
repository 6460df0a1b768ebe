"""Searches a record for results in fields that no dialect names, where the known places announce nothing.

Addresses of inputs, posters, streams and of the request itself are never results. Words in an unknown field are not
taken for a result, but they are named: a success with output that we cannot read is no success without output. Pure and
total. `outcome` and the dialects call this.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, takewhile

from reconciler.domain.model import Result
from reconciler.domain.results import position_key
from reconciler.kie.dialects.documents import MAX_NODES, is_address
from reconciler.kie.dialects.parsing import MALFORMED, parse_nested
from reconciler.kie.dialects.places import Found, usable

MAX_DEPTH = 32

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
    words: list[str] = []
    for count, (path, value) in enumerate(_fields(record, posters=posters)):
        if count >= MAX_NODES or len(path) > MAX_DEPTH:
            return Found(unreadable=(path[0],))
        if value is MALFORMED and path[0] in OUTPUT_FIELDS:
            return Found(unreadable=(".".join(path),))
        if not isinstance(value, str) or not value.strip():
            continue
        if not is_address(value):
            words += [".".join(path)] if _is_output(path) else []
        elif (address := usable(value)) is None:
            return Found(unreadable=(".".join(path),))
        elif address not in results:
            results[address] = Result(position_key(len(results)), len(results), (address,))
    return Found(tuple(results.values())) if results else Found(unreadable=_first(words))


def fields_with_addresses(record: Mapping[str, object], *, posters: bool) -> tuple[str, ...]:
    """Return the fields, five at most, that hold an address which can be one of a result; `posters` as in `search`."""
    fields = takewhile(lambda each: len(each[0]) <= MAX_DEPTH, _fields(record, posters=posters))
    return _first(
        ".".join(path) for path, value in islice(fields, MAX_NODES) if isinstance(value, str) and is_address(value)
    )


def can_be_result(name: str, *, posters: bool) -> bool:
    """Return whether a field of this name can hold a result: it is not one of an input, a poster or a stream."""
    return not (_NEVER.search(_plain(name)) or (posters and _IMAGE.search(_plain(name))))


def _first(fields: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fields))[:5]


def _fields(record: Mapping[str, object], *, posters: bool) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every value that could be output, with the names that lead to it; MALFORMED for text that is no JSON."""
    nodes: list[tuple[tuple[str, ...], object]] = [((name,), value) for name, value in list(record.items())[::-1]]
    while nodes:
        path, value = nodes.pop()
        if not can_be_result(path[-1], posters=posters):
            continue
        # A text that begins like JSON is read, also one within another; any other text is a word.
        while isinstance(value, str) and value.lstrip()[:1] in {"{", "[", '"'}:
            value = parse_nested(value)
        yield path, value
        if isinstance(value, Mapping):
            moving = any(_MOVING.search(_plain(str(name))) for name in value)
            nodes += [
                ((*path, str(name)), inner)
                for name, inner in list(value.items())[::-1]
                if not (moving and _IMAGE.search(_plain(str(name))))
            ]
        elif isinstance(value, list):
            nodes += [(path, inner) for inner in reversed(value)]


def _is_output(path: tuple[str, ...]) -> bool:
    return path[0] in OUTPUT_FIELDS and not _METADATA.search(_plain(path[-1]))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
