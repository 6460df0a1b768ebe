"""Readers of values that may be anything: JSON inside strings, numbers, times, texts.

KIE writes one thing in many ways, and rows and records are hostile input: every function here is
total, and answers "absent" or `MALFORMED` where others would raise. Used by the dialects; what a
value means for a task is said in outcome.py and in the dialects themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

MALFORMED: Final = object()
"""Something was said, and it cannot be read; absent is None."""

MAX_TEXT = 16 << 10

TASK_ID_KEYS = ("task_id", "taskId")
"""What KIE calls a task's id, by the dialect."""

SUCCESS_CODES = frozenset({0, 200})
"""The codes that tell of no error, around a record and in it."""

_MILLISECONDS_FROM = 10**11
_YEARS = range(2000, 2100)
_DIGITS = re.compile(r"[0-9]{1,18}")


def parse_nested(value: object) -> object:
    """The value itself, or what the JSON text in it says; blank text is absent.

    An address stands for itself. KIE wraps JSON in strings twice in places.
    """
    for _ in range(2):
        if not isinstance(value, str):
            return value
        text = value.strip()
        if not text or text.lower().startswith(("http://", "https://")):
            return text or None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return MALFORMED
    return value


def get_path(value: object, *path: str) -> object:
    """What lies at the end of the path; None when a step is absent, MALFORMED when it is no object."""
    for name in path:
        value = parse_nested(value)
        if value is None or value is MALFORMED:
            return value
        if not isinstance(value, Mapping):
            return MALFORMED
        value = value.get(name)
    return value


def whole_number(value: object) -> int | None:
    """A whole number, also where it is written as text or as a float; None where it is beyond reason, as 10**18 is."""
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 10**18:
        return None
    return value


def lower_text(value: object) -> str:
    """A state's name in lower case; empty when it is no text."""
    return value.strip().lower() if isinstance(value, str) else ""


def printable_line(value: object) -> str:
    """One line of printable text; empty when the value is no text and no whole number.

    Control characters and half surrogate pairs would break terminals, logs and the database. Whoever keeps the line
    takes secrets out of it before cutting it, since half a secret is not known as one: so a text of more than
    LONGEST_SAID ends between two words.
    """
    if not isinstance(value, str):
        whole = whole_number(value)
        value = "" if whole is None else str(whole)
    printable = "".join(letter if letter.isprintable() else " " for letter in value[:MAX_TEXT])
    if len(value) > MAX_TEXT:
        printable = printable.rpartition(" ")[0]
    return " ".join(printable.split())


def timestamp(value: object) -> datetime | None:
    """A moment: epoch milliseconds or seconds, ISO 8601, or "YYYY-MM-DD HH:mm:ss".

    The last form names no zone, and no page states one, so it comes back without: good for a
    difference, useless as a moment. Anything outside this century is absent.
    """
    count = whole_number(value)
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
