"""A database, a simulated KIE and a storage, and instances of the reconciler in this process that use them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import asyncpg

from reconciler.bootstrap import Parts, parts
from reconciler.domain.model import Trigger
from reconciler.domain.object_keys import AddressRules
from reconciler.postgres.claims.claims import Claims
from reconciler.postgres.eligibility import EligibleRows
from reconciler.settings import Settings, load
from reconciler.simulator import Simulator, TaskSpec
from reconciler.worker.locked_rows import LockedRows
from reconciler.worker.visit import VisitOutcome
from reconciler.worker.worker import Worker
from testkit.standins.storage import Bucket, SupabaseStorage
from testkit.waiting import until
from tests.postgres.books import Books, insert, opened

KEY = "key-of-the-shop"
REACH = EligibleRows(("kie",), ".+", AddressRules(("localhost",)))
PUBLIC = "http://127.0.0.1:9"
USER = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"


@dataclass
class Rig:
    """The surroundings of an instance; `books` reads and changes the tables directly.

    KIE is `localhost` and our storage is `127.0.0.1`, so that their addresses differ. Where `storage` is None, results
    are files below `folder`.
    """

    dsn: str
    books: Books
    kie: Simulator
    folder: Path
    storage: SupabaseStorage | None

    @property
    def pool(self) -> asyncpg.Pool:
        return self.books.pool

    def settings(self, **changes: str) -> Settings:
        """An instance's settings, changed by the names of their variables."""
        stored = {"RECONCILER_STORAGE_BACKEND": "local", "RECONCILER_STORAGE_LOCAL_DIR": str(self.folder / "stored")}
        if self.storage is not None:
            stored = {"SUPABASE_URL": self.storage.url, "SUPABASE_SERVICE_ROLE_KEY": self.storage.key}
        environment = {
            "DATABASE_URL": self.dsn,
            "KIE_API_KEY": KEY,
            "KIE_MARKET_BASE_URL": self.kie.url,
            "RECONCILER_ALLOW_PRIVATE_HOSTS": "true",
            "RECONCILER_POLL_RATE": "1000",
            "RECONCILER_PUBLIC_URL": PUBLIC,
            "RECONCILER_RESULT_HOSTS": "localhost",
            "RECONCILER_SPOOL_DIR": str(self.folder / "spool"),
            **stored,
            **changes,
        }
        return load(environment, self.folder)

    @asynccontextmanager
    async def instance(self, *, observe: bool = False, **changes: str) -> AsyncIterator[Parts]:
        """The parts of one instance; none of its loops runs."""
        async with parts(self.settings(**changes), observe=observe) as built:
            yield built

    @asynccontextmanager
    async def working(self, built: Parts) -> AsyncIterator[Parts]:
        """Run the loops that claim and renew leases; no periodic tasks and no listener."""
        work = (built.worker.run(), built.worker.keep(), built.locked_rows.run())
        loops = [asyncio.create_task(loop) for loop in work]
        try:
            yield built
        finally:
            await built.worker.drain(0)
            for loop in loops:
                loop.cancel()
            ended = await asyncio.gather(*loops, return_exceptions=True)
            broken = [end for end in ended if isinstance(end, Exception)]
            assert not broken, broken

    def broad(self, built: Parts, *, polling: int = 4, term: float = 30.0, sweep: float = 15.0) -> Parts:
        """The same instance with other limits: visits that poll at once, seconds of a lease and between two sweeps."""
        pools = built.pools
        claims = Claims(pools.claims, built.table, REACH, instance=built.instance, term=term, renewals=pools.leases)
        sinks = list(built.worker.visitor.sinks)
        work = Worker(
            claims,
            built.ledger,
            replace(built.worker.visitor, sinks=sinks),
            built.metrics,
            max_polling=polling,
            lease_seconds=term,
            sweep_seconds=sweep,
            request_gap=0.001,
        )
        retrying = replace(built.locked_rows.visitor, sinks=sinks)
        locked_rows = LockedRows(claims, work, retrying, sweep)
        sinks.append(locked_rows.on_visit)
        return replace(built, claims=claims, worker=work, locked_rows=locked_rows)

    async def order(self, *, status: str = "queued", age: float = 0.0, **order: Unpack[TaskSpec]) -> str:
        """A task at KIE and its row; the row's id."""
        return await self.insert(self.kie.add_task(**order), status=status, age=age)

    async def insert(self, task_id: str | None, *, status: str = "queued", **columns: Any) -> str:
        made = {"user_id": USER, "kind": "image", "model_key": "nano-banana-2", **columns}
        return await insert(self.pool, status=status, task_id=task_id, **made)

    async def visit(self, built: Parts, generation_id: str, trigger: Trigger = Trigger.SYNC) -> VisitOutcome:
        """Visit one generation, which must be eligible and held by no instance."""
        visited = await built.worker.once(generation_id, trigger)
        assert visited is not None, "it could not be claimed"
        return visited

    async def age(self, generation_id: str, seconds: float) -> None:
        """Make the row this old, in seconds."""
        await self.books.change(generation_id, f"created_at = now() - {seconds} * interval '1 second'")

    async def elapse(self, generation_id: str, minutes: float) -> None:
        """Let what the row has been waiting for have begun so many minutes earlier."""
        names = ("failing_since", "empty_since", "empty_counted_at", "missing_since", "completed_at")
        earlier = ", ".join(f"{name} = {name} - interval '{minutes} minutes'" for name in names)
        await self.books.set(generation_id, earlier)

    async def abandoned(self, generation_id: str) -> None:
        """End the lease of the row, as if its instance had died."""
        await self.books.set(generation_id, "lease_until = now() - interval '1 second', due_at = now()")

    async def delivered(self, generation_id: str, within: float = 10.0) -> Mapping[str, Any]:
        """The row, once it says success."""

        async def success() -> Mapping[str, Any] | None:
            generation = await self.books.generation(generation_id)
            return generation if generation["status"] == "success" else None

        return await until(success, within=within, what=f"delivery of {generation_id}")

    async def proves(self, generation_id: str) -> Mapping[str, Any]:
        """Compare a delivered row with every byte of its task's results; the row."""
        generation = await self.books.generation(generation_id)
        task = self.kie.tasks[generation["task_id"]]
        addresses = json.loads(generation["asset_urls"])
        assert (generation["status"], generation["asset_url"]) == ("success", addresses[0])
        assert len(addresses) == len(task.results)
        digests = [hashlib.sha256(self.stored(address)).hexdigest() for address in addresses]
        assert digests == [self.kie.sha256(task.id, n) for n in range(len(task.results))]
        assert await self.receipts(generation_id) == digests
        return generation

    async def receipts(self, generation_id: str) -> list[str]:
        """The sha256 of every proven asset, in order."""
        sql = "SELECT sha256 FROM reconciler.assets WHERE generation_id = $1 AND verified_by IS NOT NULL ORDER BY n"
        return [row["sha256"] for row in await self.pool.fetch(sql, generation_id)]

    def stored(self, address: str) -> bytes:
        """The bytes at one of our addresses."""
        if self.storage is None:
            return (self.folder / "stored" / address.removeprefix(f"{PUBLIC}/files/")).read_bytes()
        return self.storage.objects[address.partition("/object/public/")[2]].read()

    def names(self) -> Sequence[str]:
        """The path of every object in our storage."""
        if self.storage is not None:
            return sorted(self.storage.objects)
        root = self.folder / "stored"
        paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return sorted(str(path) for path in paths if not path.parts[0].startswith("."))


@asynccontextmanager
async def opened_rig(dsn: str, folder: Path, *, supabase: bool = False) -> AsyncIterator[Rig]:
    """A rig on this database, with the stand-in for Supabase Storage or with a folder."""
    async with AsyncExitStack() as stack:
        kie = await stack.enter_async_context(Simulator(limits=False))
        kie.origin = f"http://localhost:{kie.port}"
        storage = None
        if supabase:
            storage = await stack.enter_async_context(SupabaseStorage({"generations": Bucket()}))
        yield Rig(dsn, await stack.enter_async_context(opened(dsn)), kie, folder, storage)


async def counts_delivery(built: Parts, source: str) -> None:
    """Wait until this instance has counted the one delivery that this source caused."""
    counter = built.metrics.deliveries.labels("delivered", source)._value
    await until(lambda: counter.get() > 0, what=f"the count of the delivery by {source}")
    assert counter.get() == 1
