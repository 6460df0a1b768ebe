"""What never appears in a line of the log: secrets we know, and whatever has the shape of one.

Pure text work. `setup` makes it a step of the log; tracing and the edges of KIE and storage take secrets out of texts
with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from functools import lru_cache
from urllib.parse import quote

from structlog.typing import EventDict, WrappedLogger

REDACTED = "[redacted]"

_DEEPEST = 8
_SHORTEST_SECRET = 4

_SECRET_NAME = re.compile(
    r"authorization|api[-_]?key|token|secret|passw|cookie|signature|hmac|credential|dsn",
    re.IGNORECASE,
)

_NAMED_VALUE = r"((?:secret|token|signature|api[-_]?key|password)(?:(?:=|\\u003d)[\"']?|[\"']\s*:\s*[\"']))[^\s&\"'<>]+"


def _unsigned(found: re.Match[str]) -> str:
    return f"{found[1]}?{REDACTED}" if found[2] else found[0]


def _unless_one_part(found: re.Match[str]) -> str:
    return REDACTED if found[1] else found[0]


# Each shape takes in all that it has looked at, also where the end is missing that makes it a secret: begun anew inside
# of that, a look would take the square of a length that strangers choose.
_SHAPES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), instead)
    for pattern, instead in (
        # Who logs in at an address.
        (r"://[^\s/?#\"'<>]*@", f"://{REDACTED}@"),
        # A signed address is signed in its query.
        (r"(\b(?:https?|wss?)://[^\s?#\"'<>]*)([?#][^\s\"'<>]*)?", _unsigned),
        (r"\b(bearer)\s+[^\s\"',;]+", rf"\1 {REDACTED}"),
        # A JSON web token.
        (r"\beyJ[\w-]{5,}(\.[\w-]+(?:\.[\w-]*)?)?", _unless_one_part),
        # A key of a Supabase project.
        (r"\bsb_(?:secret|publishable)_[\w-]+", REDACTED),
        (_NAMED_VALUE, rf"\1{REDACTED}"),
    )
)


def _written(secret: str) -> list[str]:
    """Patterns of a secret: as addresses and JSON write it, each letter escaped or not, and as it is."""
    plain, escaped = re.escape(secret), "".join(map(_escaped, secret))
    return [plain] if plain == escaped else [escaped, plain]


def _escaped(letter: str) -> str:
    percent = quote(letter, safe="")
    if percent == letter:
        return re.escape(letter)
    forms = [percent, json.dumps(letter)[1:-1], f"\\u{ord(letter):04x}", f"\\{letter}"]
    # JSON has no backslash alone: with it there would be many ways to read a row of them.
    forms += [letter] if letter != "\\" else []
    return f"(?i:{'|'.join(map(re.escape, forms))})"


# Whatever has one of the shapes has one of these; most texts (ids, times, words) have none, and need only this look.
_SUSPECT = ("://", "bearer", "eyj", "sb_", "secret", "token", "signature", "api_key", "api-key", "apikey", "password")


def _suspect(value: str) -> bool:
    # Outside of ASCII there are letters which the shapes take for one of theirs and lower() does not.
    if not value.isascii():
        return True
    lowered = value.lower()
    # A loop: any() over a generator takes thrice as long, and every text of every line comes here.
    for mark in _SUSPECT:  # noqa: SIM110
        if mark in lowered:
            return True
    return False


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


class Redaction:
    """Takes secrets out of a value of any shape; as a step of structlog, out of a whole event."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        longest_first = sorted({text for text in secrets if len(text) >= _SHORTEST_SECRET}, key=len, reverse=True)
        written = [pattern for text in longest_first for pattern in _written(text)]
        self._known = re.compile("|".join(written)) if written else None

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The event without secrets, in the same order, made of what JSON can say."""
        return {name: self._named(name, value, 0) for name, value in event.items()}

    def text(self, value: str) -> str:
        """A text without known secrets and without anything that has the shape of one."""
        if self._known:
            value = self._known.sub(REDACTED, value)
        if not _suspect(value):
            return value
        for shape, instead in _SHAPES:
            value = shape.sub(instead, value)
        return value

    def _named(self, name: str, value: object, depth: int) -> object:
        number = isinstance(value, bool | int | float)
        if value and not number and _names_a_secret(name):
            return REDACTED
        return self._any(value, depth)

    def _any(self, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth > _DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            return {self.text(str(name)): self._named(str(name), inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._any(inner, depth + 1) for inner in value]
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, date):
            return value.isoformat()
        return self.text(str(value))
