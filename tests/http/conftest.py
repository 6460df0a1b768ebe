"""A real database, a simulated KIE over HTTP, local storage, and the API on a port (`api`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reconciler import bootstrap, settings
from reconciler.bootstrap import Parts, parts
from reconciler.operations.operator import Operator
from reconciler.simulator import Simulator
from tests.http.api import ServedApi, opened


@pytest.fixture
async def kie() -> AsyncIterator[Simulator]:
    async with Simulator(limits=False, compress=False) as simulator:
        yield simulator


@pytest.fixture
async def pool(rows_dsn: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(rows_dsn, min_size=1, max_size=2) as connections:
        yield connections


@pytest.fixture
async def api(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[ServedApi]:
    async with opened(rows_dsn, kie, tmp_path) as api:
        yield api


@pytest.fixture
async def built(rows_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[Parts]:
    environment = {
        "DATABASE_URL": rows_dsn,
        "KIE_API_KEY": "key",
        "KIE_MARKET_BASE_URL": kie.url,
        "RECONCILER_ALLOW_PRIVATE_HOSTS": "true",
        "RECONCILER_POLL_RATE": "1000",
        "RECONCILER_PUBLIC_URL": "http://127.0.0.1:9",
        "RECONCILER_RESULT_HOSTS": "127.0.0.1",
        "RECONCILER_SPOOL_DIR": str(tmp_path / "spool"),
        "RECONCILER_STORAGE_BACKEND": "local",
        "RECONCILER_STORAGE_LOCAL_DIR": str(tmp_path / "files"),
    }
    async with parts(settings.load(environment, tmp_path)) as built:
        yield built


@pytest.fixture
def operator(built: Parts) -> Operator:
    return replace(bootstrap.operator(built, at_once=4), patience=20)
