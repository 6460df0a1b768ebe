"""Reads the conditions of policies on storage.objects: whether one lets a role reach every object of a bucket.

Pure: a condition is never run, because it may call functions of strangers with our rights. It is read in the form in
which PostgreSQL prints it, with each part in parentheses.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Final

_TOKEN: Final = re.compile(r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | [()] | \ AND\  | \ OR\  | .""", re.VERBOSE | re.DOTALL)
_LITERAL: Final = r"'((?:[^']|'')*)'(?:::text)?"
_COLUMN: Final = r"(?:objects\.)?bucket_id"
_SUBSELECT: Final = re.compile(r"\( SELECT (auth\.\w+\(\)) AS \w+\)")
"""Supabase's advice for policies: a call in a subselect is made once for each statement."""

_BUCKET: Final = re.compile(rf"{_COLUMN} (=|<>) {_LITERAL}")
_BUCKETS: Final = re.compile(rf"{_COLUMN} = ANY \(ARRAY\[({_LITERAL}(?:, {_LITERAL})*)\]\)")
_ROLE: Final = re.compile(rf"auth\.role\(\) (=|<>) {_LITERAL}")
_USER: Final = re.compile(r"auth\.uid\(\) IS (NOT )?NULL")

_CONSTANTS: Final[Mapping[str, bool]] = MappingProxyType({"true": True, "false": False})


def allows(rule: str | None, *, bucket: str, role: str) -> bool | None:
    """Return whether the condition holds for every object of the bucket, when a session of `role` asks.

    None where it also depends on something else: the object's name, its owner, a function. No condition holds always.
    """
    if rule is None:
        return True
    return _evaluate(_SUBSELECT.sub(r"\1", rule), lambda part: _read(part, bucket, role))


def concerns_only(rule: str | None, bucket: str) -> bool:
    """Return whether the condition names this bucket and no other, and holds in no bucket that it does not name."""
    if rule is None:
        return False
    named = {_plain(found[2]) for found in _BUCKET.finditer(rule)}
    named |= {name for found in _BUCKETS.finditer(rule) for name in _literals(found[1])}
    # No bucket has an empty name.
    elsewhere = [allows(rule, bucket="", role=role) for role in ("anon", "authenticated")]
    return named == {bucket} and elsewhere == [False, False]


def _evaluate(text: str, read: Callable[[str], bool | None]) -> bool | None:
    text = _without_parentheses(text)
    for word, decides in ((" OR ", True), (" AND ", False)):
        parts = list(_split(text, word))
        if len(parts) > 1:
            values = [_evaluate(part, read) for part in parts]
            return decides if decides in values else None if None in values else not decides
    if text.startswith("NOT "):
        value = _evaluate(text.removeprefix("NOT "), read)
        return None if value is None else not value
    return read(text)


def _read(text: str, bucket: str, role: str) -> bool | None:
    """Return the value of a condition without AND, OR and NOT."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if found := _BUCKET.fullmatch(text):
        return (_plain(found[2]) == bucket) is (found[1] == "=")
    if found := _BUCKETS.fullmatch(text):
        return bucket in _literals(found[1])
    if found := _ROLE.fullmatch(text):
        return (_plain(found[2]) == role) is (found[1] == "=")
    if found := _USER.fullmatch(text):
        return (role == "authenticated") is bool(found[1])
    return None


def _literals(listed: str) -> list[str]:
    return [_plain(found[1]) for found in re.finditer(_LITERAL, listed)]


def _plain(literal: str) -> str:
    return literal.replace("''", "'")


def _without_parentheses(text: str) -> str:
    """Return the text without the parentheses that enclose all of it."""
    while text.startswith("(") and text.endswith(")"):
        found = list(_TOKEN.finditer(text))
        depths = accumulate((token[0] == "(") - (token[0] == ")") for token in found)
        if 0 in list(depths)[:-1]:
            break
        text = text[1:-1]
    return text


def _split(text: str, word: str) -> Iterator[str]:
    """Yield the parts between this word, where it stands in no parentheses and no quotes."""
    depth, start = 0, 0
    for found in _TOKEN.finditer(text):
        depth += (found[0] == "(") - (found[0] == ")")
        if found[0] == word and not depth:
            yield text[start : found.start()]
            start = found.end()
    yield text[start:]
