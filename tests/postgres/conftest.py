"""What most edges of the database are tried on: the books of a database that is this test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.postgres.books import Books, opened


@pytest.fixture
async def books(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as found:
        yield found
