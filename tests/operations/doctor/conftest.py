"""The installations on which `doctor` is tested."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.operations.doctor.installation import Installation, installation


@pytest.fixture
async def own(dsn: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """An installation whose database a test may change as it likes."""
    async with installation(dsn, tmp_path) as built:
        yield built


@pytest.fixture
async def shared(rows_dsn: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """An installation on a shared database, in which a test may change rows only."""
    async with installation(rows_dsn, tmp_path) as built:
        yield built


@pytest.fixture
async def owner(rows_dsn: str) -> AsyncIterator[Any]:
    """A connection of the database's owner, in a transaction that is rolled back."""
    connection = await asyncpg.connect(rows_dsn)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()
