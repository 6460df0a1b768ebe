"""The fixture of most tests here: the bookkeeping of a database that belongs to the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.postgres.books import Books, opened


@pytest.fixture
async def books(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as found:
        yield found
