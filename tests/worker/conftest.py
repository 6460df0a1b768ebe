"""The rigs of the worker's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.bootstrap import Parts
from tests.worker.rig import Rig, opened_rig


@pytest.fixture
async def rig(rows_dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """A database that is emptied for each test, with a folder for results."""
    async with opened_rig(rows_dsn, tmp_path) as rig:
        yield rig


@pytest.fixture
async def own_rig(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig whose database the test may change."""
    async with opened_rig(dsn, tmp_path) as rig:
        yield rig


@pytest.fixture
async def supabase_rig(rows_dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """The same with the stand-in for Supabase Storage."""
    async with opened_rig(rows_dsn, tmp_path, supabase=True) as rig:
        yield rig


@pytest.fixture
async def parts(rig: Rig) -> AsyncIterator[Parts]:
    """One instance on the rig; nothing in it runs by itself."""
    async with rig.instance() as built:
        yield built
