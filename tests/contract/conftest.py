"""Databases that several tests share, since making one for each test takes longer than the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from tests.conftest import Databases


@pytest.fixture(scope="module")
def lasting_dsn(postgres: Any, databases: Databases, _template: str) -> Iterator[str]:
    """A migrated database for all tests of one file; each clears away its own rows."""
    with databases.new(_template) as name:
        yield postgres.dsn(name)


@pytest.fixture
async def undone(postgres: Any, _template: str) -> AsyncIterator[Any]:
    """A session in a migrated database; its one transaction is rolled back."""
    connection = await asyncpg.connect(postgres.dsn(_template))
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()
