"""The fixtures of the tests here: the bookkeeping of a database that belongs to the test, and pools on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from reconciler.postgres.pool import Database
from tests.postgres.books import Books, opened


@pytest.fixture
async def books(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as found:
        yield found


@pytest.fixture
async def replicas(rows_dsn: str) -> AsyncIterator[Sequence[Database]]:
    """Two replicas' pools on one database."""
    async with AsyncExitStack() as stack:
        found = [Database(rows_dsn, size=3) for _ in range(2)]
        for database in found:
            stack.push_async_callback(database.close)
            await database.open()
        yield found
