"""The stage of these tests: a KIE that answers at once, with a Supabase or a folder as storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reconciler.demo.embedded_postgres import Postgres
from reconciler.simulator import Simulator
from testkit.stage import KEY, Rig, staged
from testkit.standins.storage import SupabaseStorage


@pytest.fixture
def kie() -> Simulator:
    """A KIE without limits; its switches may be turned before and while it runs."""
    return Simulator(keys=(KEY,), limits=False, slow_seconds=0.2)


@pytest.fixture
async def rig(dsn: str, kie: Simulator, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A stage whose storage is a Supabase, or by the parameter "folder" a folder that the replicas share."""
    storage = None if getattr(request, "param", "") == "folder" else SupabaseStorage()
    async with staged(dsn, kie, tmp_path, storage) as stage:
        yield stage


@pytest.fixture
def own_postgres(pg_programs: Path | None) -> Iterator[Postgres]:
    """A server that one test may stop; never the one that the other tests share."""
    with Postgres.start(bin_dir=pg_programs) as server:
        yield server
