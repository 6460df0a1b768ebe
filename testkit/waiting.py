"""Waits for a condition, up to a deadline: the only way in which a test may wait."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], T | Awaitable[T]], within: float = 10.0, what: str = "the condition") -> T:
    """The first true value of `condition`, asked every 20 ms.

    After `within` seconds the test fails and names `what`, what was waited for.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    never = asyncio.Event()
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if loop.time() > deadline:
            raise AssertionError(f"{what}: not within {within:g} s (last answer: {value!r})")
        try:
            await asyncio.wait_for(never.wait(), 0.02)
        except TimeoutError:
            continue
