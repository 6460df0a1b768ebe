"""One look at a part that may be away."""

from __future__ import annotations

import asyncpg

from reconciler.operations.doctor import NotKnown, attempt


async def test_an_error_of_the_database_is_named_without_its_message() -> None:
    async def read() -> None:
        raise asyncpg.InvalidTextRepresentationError("invalid input: 'a value of a row'")

    answer = await attempt(read, within=10)

    assert answer == NotKnown("the database refuses the question (InvalidTextRepresentationError, SQLSTATE 22P02)")
