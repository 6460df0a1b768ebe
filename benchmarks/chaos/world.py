"""What the storm strikes: a PostgreSQL, a KIE, a storage, replicas, and a proxy before each of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.neighbours.bad import SETTINGS
from reconciler.demo.embedded_postgres import Postgres
from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import Simulator
from testkit.replica import Replica
from testkit.stage import KEY, Rig, staged
from testkit.standins.proxy import Proxy
from testkit.standins.storage import SupabaseStorage


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds of a lease and of a sweep; the defaults are the daemon's own."""

    lease: float = 30.0
    sweep: float = 15.0


@dataclass
class World:
    """Everything that a fault may touch; `lines` lead each replica to the database."""

    postgres: Postgres
    rig: Rig
    terms: Terms
    lines: list[Proxy]
    kie_line: Proxy
    storage_line: Proxy
    replicas: list[Replica] = field(default_factory=list)
    database: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One fault of the server itself at a time."""

    @property
    def storage(self) -> SupabaseStorage:
        """The storage behind its line."""
        assert self.rig.storage is not None
        return self.rig.storage

    async def start(self, n: int) -> Replica:
        """Start replica `n` and put it in its place; it is not waited for."""
        begun = await self.rig.begin(
            DATABASE_URL=self.lines[n].dsn,
            KIE_MARKET_BASE_URL=self.kie_line.dsn,
            SUPABASE_URL=self.storage_line.dsn,
            RECONCILER_LEASE_SECONDS=str(self.terms.lease),
            RECONCILER_SWEEP_SECONDS=str(self.terms.sweep),
            **SETTINGS,
        )
        self.replicas[n : n + 1] = [begun]
        return begun


@contextlib.asynccontextmanager
async def world(folder: Path, *, replicas: int, seed: int, terms: Terms, latency: float = 0.01) -> AsyncIterator[World]:
    """Start all of it, and end all of it; KIE thinks for `latency` seconds about each request."""
    async with AsyncExitStack() as stack:
        # A crash of the server is among the faults; a crash of the machine, which fsync is for, is not.
        postgres = stack.enter_context(Postgres.start(settings={"max_connections": "120"}))
        await migrate(postgres.dsn(), application=True)
        kie = Simulator(keys=(KEY,), limits=False, slow_seconds=0.5, hang_seconds=8.0, seed=seed, latency=latency)
        rig = await stack.enter_async_context(staged(postgres.dsn(), kie, folder, SupabaseStorage()))
        assert rig.storage is not None
        lines = [await stack.enter_async_context(Proxy(postgres.dsn())) for _ in range(replicas)]
        kie_line = await stack.enter_async_context(Proxy(kie.url))
        storage_line = await stack.enter_async_context(Proxy(rig.storage.url))
        # Files, too, come over the line that can fail.
        kie.origin = kie_line.dsn
        made = World(postgres, rig, terms, lines, kie_line, storage_line)
        for n in range(replicas):
            await made.start(n)
        for replica in made.replicas:
            await replica.ready()
        yield made


async def asked(postgres: Postgres, sql: str) -> None:
    """Run a statement on a connection of its own, so that no pool is in the way of a restart."""
    connection = await asyncpg.connect(postgres.dsn(), timeout=10)
    try:
        await connection.execute(sql)
    finally:
        connection.terminate()
