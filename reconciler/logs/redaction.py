"""Removes secrets from log events and texts: the known ones, and everything that has the form of one.

Pure. `setup` makes it a structlog processor; tracing, the KIE client and storage remove secrets from messages with it.
"""

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
    r"authorization|api[-_]?key|token|secret|passw|cookie|signature|hmac|credential|dsn", re.IGNORECASE
)

_NAMED_VALUE = r"((?:secret|token|signature|api[-_]?key|password)(?:(?:=|\\u003d)[\"']?|[\"']\s*:\s*[\"']))[^\s&\"'<>]+"


def _redact_query(found: re.Match[str]) -> str:
    return f"{found[1]}?{REDACTED}" if found[2] else found[0]


def _redact_if_two_parts(found: re.Match[str]) -> str:
    return REDACTED if found[1] else found[0]


# Each pattern also consumes text that begins like a secret and is none. If the search restarted inside that text, it
# would take quadratic time in a length that strangers choose.
_SHAPES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # User and password in an address.
        (r"://[^\s/?#\"'<>]*@", f"://{REDACTED}@"),
        # The query of an address may hold a signature.
        (r"(\b(?:https?|wss?)://[^\s?#\"'<>]*)([?#][^\s\"'<>]*)?", _redact_query),
        (r"\b(bearer)\s+[^\s\"',;]+", rf"\1 {REDACTED}"),
        # A JSON web token.
        (r"\beyJ[\w-]{5,}(\.[\w-]+(?:\.[\w-]*)?)?", _redact_if_two_parts),
        # A key of a Supabase project.
        (r"\bsb_(?:secret|publishable)_[\w-]+", REDACTED),
        (_NAMED_VALUE, rf"\1{REDACTED}"),
    )
)


def _secret_patterns(secret: str) -> list[str]:
    """Return the patterns of a secret: as it is, and with each character escaped as in addresses and JSON, or not."""
    plain, escaped = re.escape(secret), "".join(map(_escaped, secret))
    return [plain] if plain == escaped else [escaped, plain]


def _escaped(letter: str) -> str:
    percent = quote(letter, safe="")
    if percent == letter:
        return re.escape(letter)
    forms = [percent, json.dumps(letter)[1:-1], f"\\u{ord(letter):04x}", f"\\{letter}"]
    # A backslash is never alone in JSON; allowing that would make a row of them ambiguous and slow to match.
    forms += [letter] if letter != "\\" else []
    return f"(?i:{'|'.join(map(re.escape, forms))})"


# Every text that matches one of the patterns contains one of these. Most texts contain none and need no pattern.
_MARKS = ("://", "bearer", "eyj", "sb_", "secret", "token", "signature", "api_key", "api-key", "apikey", "password")


def _may_hold_secret(value: str) -> bool:
    # Ignoring case, the patterns match some letters beyond ASCII that lower() does not map to ASCII.
    if not value.isascii():
        return True
    lowered = value.lower()
    # A loop, because any() over a generator takes three times as long, and every text of every line comes here.
    for mark in _MARKS:  # noqa: SIM110
        if mark in lowered:
            return True
    return False


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


class Redaction:
    """Removes secrets from a value of any type; as a structlog processor, from a whole event."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        longest_first = sorted({text for text in secrets if len(text) >= _SHORTEST_SECRET}, key=len, reverse=True)
        written = [pattern for text in longest_first for pattern in _secret_patterns(text)]
        self._known = re.compile("|".join(written)) if written else None

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Return the event without secrets, in the same order, of JSON types only."""
        return {name: self._named(name, value, 0) for name, value in event.items()}

    def text(self, value: str) -> str:
        """Return the text without known secrets and without everything that has the form of one."""
        if self._known:
            value = self._known.sub(REDACTED, value)
        if not _may_hold_secret(value):
            return value
        for shape, replacement in _SHAPES:
            value = shape.sub(replacement, value)
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
