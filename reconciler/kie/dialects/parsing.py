"""Parses values of unknown form: JSON inside strings, numbers, times, texts.

KIE writes the same thing in several forms, and records are hostile input. So every function here is total: it returns
"absent" or `MALFORMED` instead of raising. The dialects, the client and createTask use it; what a value means for a
task is decided in `outcome.py` and the dialects.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

MALFORMED: Final = object()
"""A value is there, but unreadable; an absent value is None."""

MAX_TEXT = 16 << 10

MAX_VALUES = 30_000
"""The most values in one JSON text: parsing holds everything else up while it lasts."""

TASK_ID_KEYS = ("task_id", "taskId")
"""The names of a task's id in the dialects."""

SUCCESS_CODES = frozenset({0, 200})
"""The codes that mean no error, in the envelope and in a record."""

_MILLISECONDS_FROM = 10**11
_YEARS = range(2000, 2100)
_DIGITS = re.compile(r"[0-9]{1,18}")


def too_many_values(text: bytes | bytearray | str) -> bool:
    """Return whether this JSON may hold more than MAX_VALUES; signs inside its texts count, too."""
    if len(text) <= MAX_VALUES:
        return False
    if isinstance(text, str):
        return sum(map(text.count, ",[{")) > MAX_VALUES
    return sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES


def parse_nested(value: object) -> object:
    """Return the value, or the parsed JSON if it is text; blank text is absent.

    An address is returned as it is. KIE sometimes wraps JSON in a string twice.
    """
    for _ in range(2):
        if not isinstance(value, str):
            return value
        text = value.strip()
        if not text or text.lower().startswith(("http://", "https://")):
            return text or None
        if too_many_values(text):
            return MALFORMED
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return MALFORMED
    return value


def get_path(value: object, *path: str) -> object:
    """Return the value at this path of keys; None if a step is absent, MALFORMED if it is no object."""
    for name in path:
        value = parse_nested(value)
        if value is None or value is MALFORMED:
            return value
        if not isinstance(value, Mapping):
            return MALFORMED
        value = value.get(name)
    return value


def integer(value: object) -> int | None:
    """Return a whole number, also if written as text or as a float; None if it is none or reaches 10**18."""
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 10**18:
        return None
    return value


def lower_text(value: object) -> str:
    """Return a text in lower case, without blanks around it; empty if the value is no text."""
    return value.strip().lower() if isinstance(value, str) else ""


def printable_line(value: object) -> str:
    """Return one line of printable text; empty if the value is neither text nor a whole number.

    Control characters and half surrogate pairs would break terminals, logs and the database. A text of more than
    MAX_TEXT characters is cut between two words: the caller removes secrets from it, and half a secret would not be
    recognised.
    """
    if not isinstance(value, str):
        whole = integer(value)
        value = "" if whole is None else str(whole)
    printable = "".join(letter if letter.isprintable() else " " for letter in value[:MAX_TEXT])
    if len(value) > MAX_TEXT:
        printable = printable.rpartition(" ")[0]
    return " ".join(printable.split())


def timestamp(value: object) -> datetime | None:
    """Return the time in epoch milliseconds or seconds, ISO 8601, or "YYYY-MM-DD HH:mm:ss".

    The last form has no time zone, and no page states one: its result is naive, and good for differences only. A time
    outside this century is absent.
    """
    count = integer(value)
    try:
        if count is not None:
            seconds = count / 1000 if abs(count) >= _MILLISECONDS_FROM else count
            moment = datetime.fromtimestamp(seconds, UTC)
        elif isinstance(value, str):
            moment = datetime.fromisoformat(value.strip())
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    if moment.year not in _YEARS:
        return None
    return moment if moment.tzinfo is None else moment.astimezone(UTC)
