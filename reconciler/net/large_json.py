"""Keeps the event loop turning while large JSON from others is read.

Parsing does not let other threads run, so the number of values is bounded before it. What reads the parsed values is
Python code, and runs in a thread where the JSON is large.
"""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_VALUES = 30_000
"""The most values in one JSON text: with more, parsing it holds everything else up."""

LARGE = 32 << 10
"""Bytes of JSON from which on it is read in a thread."""


def too_many_values(text: bytes | bytearray | str) -> bool:
    """Return whether this JSON may hold more than MAX_VALUES; signs inside its texts count, too."""
    if len(text) <= MAX_VALUES:
        return False
    if isinstance(text, str):
        return sum(map(text.count, ",[{")) > MAX_VALUES
    return sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES


async def off_loop(size: int, function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """Call a pure function about JSON of `size` bytes, in a thread where that is large."""
    if size < LARGE:
        return function(*args, **keywords)
    return await asyncio.to_thread(function, *args, **keywords)
