"""Keeps the event loop turning while the values of large JSON are read, which is Python code and lets others run.

Parsing does not: `kie/dialects/parsing.py` bounds the values of one text.
"""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LARGE = 32 << 10
"""Bytes of JSON from which on it is read in a thread."""


async def off_loop(size: int, function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """Call a pure function about JSON of `size` bytes, in a thread where that is large."""
    if size < LARGE:
        return function(*args, **keywords)
    return await asyncio.to_thread(function, *args, **keywords)
