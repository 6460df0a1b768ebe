"""One look at a part that may be away: its facts, or why they are not known. Every check reads its facts through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from reconciler.errors import ReconcilerError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NotKnown:
    """Facts that could not be read: the reason, what to do about it, and the error's code."""

    reason: str
    do: str = ""
    code: str = ""


async def attempt(read: Callable[[], Awaitable[T]], *, within: float) -> T | NotKnown:
    """Return what `read` returns, or NotKnown where it fails or takes more than `within` seconds."""
    try:
        async with asyncio.timeout(within):
            return await read()
    except TimeoutError:
        return NotKnown(f"no answer within {within:g} s", code="timeout")
    except ReconcilerError as error:
        return NotKnown(str(error), error.hint, error.code)
    except asyncpg.PostgresError as error:
        # Only the class name: the message can repeat a value of a row.
        return NotKnown(f"the database refuses the question ({type(error).__name__})")
