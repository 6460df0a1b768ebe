"""An installation without faults: a migrated database, a bucket, a KIE. Each test breaks one part of it."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg

from reconciler import __version__, settings
from reconciler.bootstrap import doctor
from reconciler.operations.doctor import Check
from reconciler.postgres.migrations.schema_level import LEVEL
from reconciler.simulator import Simulator
from testkit.standins.storage import Bucket, SupabaseStorage

KEY = "the-key-of-this-account"


@dataclass
class Installation:
    """One installation; `examine` runs `doctor` on it, with some settings changed."""

    dsn: str
    kie: Simulator
    storage: SupabaseStorage
    folder: Path

    def environment(self, **changes: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.dsn,
            "KIE_API_KEY": KEY,
            "KIE_MARKET_BASE_URL": self.kie.url,
            "RECONCILER_HTTP_PORT": "0",
            "RECONCILER_SPOOL_DIR": str(self.folder / "spool"),
            "SUPABASE_URL": self.storage.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.storage.key,
            **changes,
        }

    async def examine(
        self,
        *,
        unknown_names: tuple[str, ...] = (),
        within: float = 10.0,
        now: Callable[[], float] = time.time,
        **changes: str,
    ) -> dict[str, Check]:
        """Return every check by its name."""
        async with doctor(settings.load(self.environment(**changes), self.folder)) as built:
            checks = await replace(built, within=within, now=now).examine(unknown_names)
        return {check.name: check for check in checks}

    async def sql(self, *statements: str) -> None:
        """Change the database."""
        connection = await asyncpg.connect(self.dsn)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()


@asynccontextmanager
async def installation(
    dsn: str, folder: Path, bucket: Bucket | None = None, **options: Any
) -> AsyncIterator[Installation]:
    """`options` are the simulator's. One daemon is alive, as far as the database knows."""
    await heartbeat(dsn)
    async with (
        Simulator(keys=(KEY,), limits=False, **options) as kie,
        SupabaseStorage({"generations": bucket or Bucket()}) as storage,
    ):
        yield Installation(dsn, kie, storage, folder)


async def heartbeat(dsn: str, version: str = __version__) -> None:
    """Write what a daemon writes that is alive, for the time of a test."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        """INSERT INTO reconciler.instances (id, host, pid, version, seen_at, level)
           VALUES (gen_random_uuid(), 'here', 1, $1, now() + interval '10 minutes', $2)""",
        version,
        LEVEL,
    )
    await connection.close()


def not_ok(checks: dict[str, Check]) -> dict[str, str]:
    """Return the names of the checks that are not ok, with their words."""
    return {name: check.word for name, check in checks.items() if check.word != "ok"}


@asynccontextmanager
async def pooled(dsn: str) -> AsyncIterator[Any]:
    """A pool for writing rows."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        yield pool


async def run(connection: Any, sql: str) -> None:
    """Run the SQL that a check gives, each statement alone.

    CONCURRENTLY is left out, because the tests run it inside a transaction.
    """
    bare = "\n".join(line for line in sql.splitlines() if not line.startswith("--")).replace(" CONCURRENTLY", "")
    for statement in re.split(r";(?:\n|$)", bare):
        if statement.strip():
            await connection.execute(statement)
