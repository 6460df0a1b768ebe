"""The released 0.1.0: its wheel, and a database as it leaves one, with rows in every state."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from reconciler.simulator import Simulator
from testkit.stage import KEY, Rig, staged

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the unpacked wheel; as PYTHONPATH it makes `python -m reconciler` version 0.1.0."""
    folder = tmp_path_factory.mktemp("released")
    zipfile.ZipFile(HERE / "kie_reconciler-0.1.0-py3-none-any.whl").extractall(folder)
    return str(folder)


@pytest.fixture
async def released_dsn(empty_dsn: str) -> str:
    """The address of a database that 0.1.0 has migrated, without rows."""
    await load(empty_dsn, "schema_0_1_0.sql")
    return empty_dsn


@pytest.fixture
async def filled_dsn(released_dsn: str) -> str:
    """The address of a database of 0.1.0 with rows in every state."""
    await load(released_dsn, "rows_0_1_0.sql")
    return released_dsn


async def load(dsn: str, name: str) -> None:
    """Run a file of this folder in one transaction."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute((HERE / name).read_text())
    finally:
        await connection.close()


@pytest.fixture
def kie() -> Simulator:
    """A KIE without limits; its switches may be turned before and while it runs."""
    return Simulator(keys=(KEY,), limits=False, slow_seconds=0.2)


@pytest.fixture
async def rig(released_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[Rig]:
    """A stage over a database of 0.1.0 without rows; its storage is a folder."""
    async with staged(released_dsn, kie, tmp_path) as stage:
        yield stage


@pytest.fixture
async def filled(filled_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[Rig]:
    """A stage over a database of 0.1.0 with rows in every state."""
    async with staged(filled_dsn, kie, tmp_path) as stage:
        yield stage
