"""The stage of a test: a database, a KIE, a storage and any number of daemons, all of them over real connections."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Unpack

import asyncpg

from reconciler.simulator import Simulator, TaskSpec
from testkit.replica import Replica
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until
from testkit.witness import Witness

USER = "0b7d3c1e-5a42-4f0e-9f5d-3a8f5a0c9e11"
KEY = "key-of-the-shop"

_INSERT = """
INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status, created_at)
VALUES ($1, $2, $3, 'kie', $4, $5, now() - $6 * interval '1 second') RETURNING id::text
"""


@dataclass
class Rig:
    """Everything of one test; `folder` is storage where no SupabaseStorage is given."""

    dsn: str
    pool: asyncpg.Pool
    kie: Simulator
    folder: Path
    storage: SupabaseStorage | None = None
    replicas: list[Replica] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def environment(self, **changes: str) -> dict[str, str]:
        """The settings of a replica, with short terms; a change by "" unsets."""
        settings = {
            "DATABASE_URL": self.dsn,
            "KIE_API_KEY": KEY,
            "KIE_MARKET_BASE_URL": self.kie.url,
            "LOG_FORMAT": "json",
            "RECONCILER_ALLOW_PRIVATE_HOSTS": "true",
            "RECONCILER_HTTP_PORT": "0",
            "RECONCILER_LEASE_SECONDS": "3",
            "RECONCILER_POLL_RATE": "50",
            "RECONCILER_RESULT_HOSTS": "127.0.0.1",
            "RECONCILER_SPOOL_DIR": str(self.folder / "spool"),
            "RECONCILER_SWEEP_SECONDS": "1",
        }
        return {name: value for name, value in {**settings, **self._stored(), **changes}.items() if value}

    def _stored(self) -> dict[str, str]:
        if self.storage is not None:
            return {"SUPABASE_URL": self.storage.url, "SUPABASE_SERVICE_ROLE_KEY": self.storage.key}
        return {
            "RECONCILER_STORAGE_BACKEND": "local",
            "RECONCILER_STORAGE_LOCAL_DIR": str(self.folder / "stored"),
            "RECONCILER_PUBLIC_URL": "http://127.0.0.1:9",
        }

    async def begin(self, *arguments: str, through: Iterable[str] = (), **changes: str) -> Replica:
        """Start a replica without waiting for it."""
        folder = self.folder / f"replica-{next(self._numbers)}"
        replica = await Replica.start(folder, self.environment(**changes), *arguments, through=tuple(through))
        self.replicas.append(replica)
        return replica

    async def run(self, *arguments: str, through: Iterable[str] = (), **changes: str) -> Replica:
        """Start a replica and wait until it is ready."""
        return await (await self.begin(*arguments, through=through, **changes)).ready()

    async def insert(
        self,
        task_id: str | None,
        *,
        status: str = "queued",
        kind: str = "image",
        model: str = "nano-banana-2",
        age: float = 30.0,
    ) -> str:
        """A row as the application makes it, by default of an age at which pictures are expected."""
        generation_id: str = await self.pool.fetchval(_INSERT, USER, kind, model, task_id, status, age)
        return generation_id

    async def order(self, status: str = "queued", **order: Unpack[TaskSpec]) -> str:
        """A task at KIE and the row that waits for it; the row's id."""
        task_id = self.kie.add_task(**order)
        task = self.kie.tasks[task_id]
        kind = task.results[0].kind if task.results else "image"
        return await self.insert(task_id, status=status, kind=kind, model=task.model)

    async def delivered(self, ids: Iterable[str], within: float = 20.0) -> None:
        """Wait until these rows are delivered, then compare every byte with its source."""
        wanted = list(ids)

        async def waiting() -> list[str]:
            rows = await self.pool.fetch(
                "SELECT id::text, status FROM public.generations"
                " WHERE id::text = ANY($1) AND status NOT IN ('success', 'completed')",
                wanted,
            )
            return [f"{row['id']} {row['status']}" for row in rows]

        async def none_waits() -> bool:
            return not await waiting()

        try:
            await until(none_waits, within, f"{len(wanted)} deliveries")
        except AssertionError as error:
            raise AssertionError(f"{error}: {await waiting()}; {await self.why()}") from None
        for generation_id in wanted:
            await self.prove(generation_id)

    async def why(self) -> list[str]:
        """What the bookkeeping says of rows that are not delivered."""
        rows = await self.pool.fetch(
            "SELECT generation_id, due_at - now() AS due, lease_until - now() AS held, looks, misses, why"
            "  FROM reconciler.work WHERE delivered_at IS NULL ORDER BY due_at LIMIT 10"
        )
        return [str(tuple(row)) for row in rows]

    async def _mark(self, generation_id: str, task_id: str) -> str:
        """What tells the objects of a row's further task from those of its first."""
        sql = "SELECT cardinality(former_tasks) FROM reconciler.work WHERE generation_id = $1"
        former = await self.pool.fetchval(sql, generation_id)
        return f"-{hashlib.sha256(task_id.encode()).hexdigest()[:8]}" if former else ""

    async def prove(self, generation_id: str) -> None:
        """Every result of this row's task is stored byte for byte where the row says."""
        row = await self.pool.fetchrow("SELECT * FROM public.generations WHERE id::text = $1", generation_id)
        task = self.kie.tasks[row["task_id"]]
        name = f"{row['user_id']}/{{}}/{generation_id}_{{}}{await self._mark(generation_id, task.id)}.{{}}"
        keys = [name.format(one.kind, n, one.ext) for n, one in enumerate(task.results)]
        addresses = json.loads(row["asset_urls"]) if "asset_urls" in row.keys() else [row["asset_url"]]  # noqa: SIM118
        assert addresses[0] == row["asset_url"]
        place = "/files/" if self.storage is None else "/public/generations/"
        assert [address.partition(place)[2] for address in addresses] == keys[: len(addresses)]
        assert len(addresses) == (len(keys) if "asset_urls" in row.keys() else 1)  # noqa: SIM118
        for n, key in enumerate(keys):
            assert self.sha256(key) == self.kie.sha256(task.id, n), f"{key} is not what KIE made"

    def sha256(self, key: str) -> str | None:
        """The hash of a stored object, None where there is none."""
        if self.storage is not None:
            thing = self.storage.objects.get(f"generations/{key}")
            return thing.sha256 if thing else None
        path = self.folder / "stored" / key
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None

    def keys(self) -> list[str]:
        """The keys of all stored objects."""
        if self.storage is not None:
            return [name.partition("/")[2] for name in self.storage.objects]
        root = self.folder / "stored"
        return [str(path.relative_to(root)) for path in root.rglob("*.*") if path.is_file()]

    async def witness(self) -> Witness:
        """Record every change of the application's table from now on."""
        return await Witness.call(self.pool)

    async def work(self, generation_id: str) -> asyncpg.Record:
        """The bookkeeping of one row."""
        return await self.pool.fetchrow("SELECT * FROM reconciler.work WHERE generation_id = $1", generation_id)

    async def held(self) -> int:
        """How many rows replicas hold by a lease at this moment."""
        held: int = await self.pool.fetchval("SELECT count(*) FROM reconciler.work WHERE lease_until > now()")
        return held

    async def delivering(self) -> list[int]:
        """The process ids of the replicas that hold rows which KIE has called a success, one for each row."""
        now = self.kie.clock.now()
        done = [task.id for task in self.kie.tasks.values() if task.polls and task.state(now) == "success"]
        rows = await self.pool.fetch(
            "SELECT i.pid FROM reconciler.work w JOIN reconciler.instances i ON i.id = w.instance"
            " WHERE w.lease_until > now() AND w.seen_task = ANY($1)",
            done,
        )
        return [row["pid"] for row in rows]

    def keeps_to(self, rate: int) -> None:
        """Assert that KIE sent no 429, and got at most this rate of polls a second over any six seconds."""
        looks = sorted(moment for task in self.kie.tasks.values() for moment in task.polled_at)
        assert self.kie.counts.limited == 0
        assert len(looks) > rate * 6
        # A request that a busy machine holds up comes together with those after it.
        for first, last in zip(looks, looks[rate * 6 :], strict=False):
            assert last - first > 4, "more than the rate in six seconds"

    async def struck(self, fault: str, count: int) -> None:
        """Wait until this fault of KIE has struck so many requests."""
        counted = self.kie.counts.faults
        await until(lambda: counted[fault] == count, what=f"{fault} for {count} requests")


@contextlib.asynccontextmanager
async def staged(dsn: str, kie: Simulator, folder: Path, storage: SupabaseStorage | None = None) -> AsyncIterator[Rig]:
    """Start everything but the replicas; at the end stop all of it."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(kie)
        if storage is not None:
            await stack.enter_async_context(storage)
        pool = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=0, max_size=4))
        rig = Rig(dsn, pool, kie, folder / secrets.token_hex(4), storage)
        try:
            yield rig
        finally:
            for replica in rig.replicas:
                await replica.kill()
            pool.terminate()
