"""Gathers the facts that `doctor` judges: from the database, from storage, from KIE and the callback's address.

Nothing is judged here (`core/checkup/`), and nothing is changed: the one object that storage is given is removed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from reconciler.errors import ReconcilerError
from reconciler.operations.doctor import NotKnown

T = TypeVar("T")


async def seen(look: Callable[[], Awaitable[T]], *, within: float) -> T | NotKnown:
    """Look, for so many seconds at most; what went wrong is an answer, too."""
    try:
        async with asyncio.timeout(within):
            return await look()
    except TimeoutError:
        return NotKnown(f"no answer within {within:g} s", code="timeout")
    except ReconcilerError as error:
        return NotKnown(str(error), error.hint, error.code)
    except asyncpg.PostgresError as error:
        # Only the kind: its text may repeat a value of a row.
        return NotKnown(f"the database refuses the question ({type(error).__name__})")
