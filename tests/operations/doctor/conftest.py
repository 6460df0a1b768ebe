"""The installation that the tests of `doctor` spoil."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.operations.doctor.installation import Surgery, surgery


@pytest.fixture
async def well(dsn: str, tmp_path: Path) -> AsyncIterator[Surgery]:
    """An installation of its own, in which all is well."""
    async with surgery(dsn, tmp_path) as built:
        yield built


@pytest.fixture
async def shared(rows_dsn: str, tmp_path: Path) -> AsyncIterator[Surgery]:
    """The same on a database that only rows may be changed in."""
    async with surgery(rows_dsn, tmp_path) as built:
        yield built
