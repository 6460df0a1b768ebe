"""Everything `doctor` looks at, well at first: a migrated database, a bucket, a KIE; each test spoils one thing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg

from reconciler import settings
from reconciler.bootstrap import doctor_clients
from reconciler.operations.doctor import Check
from reconciler.operations.doctor.examine import examine
from reconciler.simulator import Simulator
from testkit.standins.storage import Bucket, SupabaseStorage

KEY = "the-key-of-this-account"


@dataclass
class Surgery:
    """One installation; `look` examines it, with settings changed."""

    dsn: str
    kie: Simulator
    storage: SupabaseStorage
    folder: Path

    def environment(self, **changes: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.dsn,
            "KIE_API_KEY": KEY,
            "KIE_MARKET_BASE_URL": self.kie.url,
            "RECONCILER_SPOOL_DIR": str(self.folder / "spool"),
            "SUPABASE_URL": self.storage.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.storage.key,
            **changes,
        }

    async def look(
        self,
        *,
        strangers: tuple[str, ...] = (),
        within: float = 10.0,
        now: Callable[[], float] = time.time,
        **changes: str,
    ) -> dict[str, Check]:
        """Every check by its name."""
        async with doctor_clients(settings.load(self.environment(**changes), self.folder)) as tools:
            checks = await examine(replace(tools, within=within, now=now), strangers)
        return {check.name: check for check in checks}

    async def sql(self, *statements: str) -> None:
        """Spoil the database."""
        connection = await asyncpg.connect(self.dsn)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()


@asynccontextmanager
async def surgery(dsn: str, folder: Path, bucket: Bucket | None = None, **options: Any) -> AsyncIterator[Surgery]:
    """`options` are the simulator's."""
    async with (
        Simulator(keys=(KEY,), limits=False, **options) as kie,
        SupabaseStorage({"generations": bucket or Bucket()}) as storage,
    ):
        yield Surgery(dsn, kie, storage, folder)


def amiss(checks: dict[str, Check]) -> dict[str, str]:
    """What is not well, with its word."""
    return {name: check.word for name, check in checks.items() if check.word != "ok"}


@asynccontextmanager
async def pooled(dsn: str) -> AsyncIterator[Any]:
    """Connections for writing rows."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        yield pool
