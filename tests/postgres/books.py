"""Shared by the tests of claims and ledger: rows as an application writes them, and our bookkeeping about them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from reconciler.domain.model import Asset, Reschedule, Row, Trigger
from reconciler.domain.object_keys import AddressRules
from reconciler.domain.results import from_addresses
from reconciler.postgres.claims.claims import Claim, Claims
from reconciler.postgres.eligibility import EligibleRows
from reconciler.postgres.ledger.ledger import LOCK_SECONDS, Ledger, StoredResults
from reconciler.postgres.orphans import Orphans
from reconciler.postgres.pool import Database
from reconciler.postgres.retention import Retention
from reconciler.postgres.schema import TableShape, introspect

USER = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
THEIRS = "https://tempfile.aiquickdraw.com/r/one.png"
OURS = "https://project.supabase.co/storage/v1/object/public/generations/one_0.png"
HOSTS = ("aiquickdraw.com", "kie.ai")
ELIGIBLE = EligibleRows(providers=("kie",), task_pattern=".+", rules=AddressRules(HOSTS))


async def insert(pool: asyncpg.Pool, *, status: str = "queued", age: float = 0.0, **columns: Any) -> str:
    """Insert a generation of this age in seconds as an application does; return its id.

    A failed one failed when it was created.
    """
    values = {"status": status, "task_id": "task-1", **columns}
    times = ["created_at", *(["updated_at"] if status == "failed" and "updated_at" not in values else [])]
    names = ", ".join([*values, *times])
    places = ", ".join(
        [*(f"${n}" for n in range(2, len(values) + 2)), *["now() - $1 * interval '1 second'"] * len(times)]
    )
    sql = f"INSERT INTO public.generations ({names}) VALUES ({places})"
    made: str = await pool.fetchval(f"{sql} RETURNING id::text", age, *values.values())
    return made


@dataclass
class Books:
    """One database, with claims for any number of instances, a ledger and retention."""

    pool: asyncpg.Pool
    database: Database
    table: TableShape

    def claims(self, *, term: float = 30.0, eligible: EligibleRows = ELIGIBLE) -> Claims:
        """Return the claims of a new instance."""
        return Claims(self.database, self.table, eligible, instance=uuid.uuid4(), term=term)

    def retention(self) -> Retention:
        return Retention(self.database, self.table, term=30)

    def ledger(self, *, handover: bool = False, lock_wait: float = LOCK_SECONDS) -> Ledger:
        return Ledger(self.database, self.table, handover=handover, lock_wait=lock_wait)

    def orphans(self) -> Orphans:
        return Orphans(self.database, self.table)

    async def insert(self, **columns: Any) -> str:
        return await insert(self.pool, **columns)

    async def claim(self, generation_id: str, *, term: float = 30.0, trigger: Trigger = Trigger.SYNC) -> Claim:
        """Claim this generation for a new instance; it must be free."""
        (claim,) = await self.claims(term=term).woken({generation_id: trigger})
        return claim

    async def held(self, generation_id: str, *, term: float = 30.0) -> tuple[Row, Claim]:
        """Claim this generation and read it."""
        claim = await self.claim(generation_id, term=term)
        return (await self.ledger().read([generation_id]))[generation_id].row, claim

    async def generation(self, generation_id: str) -> Mapping[str, Any]:
        sql = "SELECT * FROM public.generations WHERE id::text = $1"
        return dict(await self.pool.fetchrow(sql, generation_id))

    async def work(self, generation_id: str) -> Mapping[str, Any] | None:
        """Our bookkeeping, with `due_in` and `left`, the seconds until it is due and until its lease ends."""
        row = await self.pool.fetchrow(
            """SELECT *, extract(epoch FROM due_at - clock_timestamp())::float8 AS due_in,
                      extract(epoch FROM lease_until - clock_timestamp())::float8 AS left
                 FROM reconciler.work WHERE generation_id = $1""",
            generation_id,
        )
        return dict(row) if row else None

    async def events(self, generation_id: str) -> list[str]:
        sql = "SELECT kind FROM reconciler.events WHERE generation_id = $1 ORDER BY id"
        return [row["kind"] for row in await self.pool.fetch(sql, generation_id)]

    async def everything(self) -> dict[str, list[str]]:
        """Every row of the tables that a visit may write."""
        tables = [f"reconciler.{name}" for name in ("work", "assets", "orphans", "events", "timings")]
        return {
            name: [row[0] for row in await self.pool.fetch(f"SELECT t::text FROM {name} t ORDER BY 1")]
            for name in ["public.generations", *tables]
        }

    async def stored(self, row: Row, claim: Claim, *, sources: int = 1) -> Row:
        """Deliver every source by hand, up to the receipts; return the row after that."""
        addresses = tuple(f"{THEIRS}?{n}" for n in range(sources))
        row = replace(row, results=from_addresses(addresses), reason="KIE says success", duration=timedelta(seconds=12))
        ledger = self.ledger()
        for n in range(sources):
            await ledger.intend(row, claim, asset(n))
            await ledger.stored(row, claim, proven(n))
        return replace(row, assets=tuple(proven(n) for n in range(sources)))

    async def taken_over(self, generation_id: str) -> None:
        """Another instance draws a lease of its own."""
        sql = "UPDATE reconciler.work SET lease = gen_random_uuid(), lease_until = now() + interval '1 minute'"
        assert await self.pool.execute(f"{sql} WHERE generation_id = $1", generation_id) == "UPDATE 1"

    async def set(self, generation_id: str, assignments: str) -> None:
        """Change our bookkeeping by hand."""
        sql = f"UPDATE reconciler.work SET {assignments} WHERE generation_id = $1"
        assert await self.pool.execute(sql, generation_id) == "UPDATE 1"

    async def change(self, generation_id: str, assignments: str) -> None:
        """Change the application's row as the application does."""
        sql = f"UPDATE public.generations SET {assignments} WHERE id::text = $1"
        assert await self.pool.execute(sql, generation_id) == "UPDATE 1"


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Books]:
    """Open the bookkeeping of this database."""
    database = Database(dsn, size=5)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=5) as pool:
        try:
            async with pool.acquire() as connection:
                table = await introspect(connection)
            yield Books(pool, database, table)
        finally:
            await database.close()


def asset(n: int = 0, **changes: Any) -> Asset:
    """Return an intended asset: named and hashed, not stored."""
    named = {"path": f"user/image/generation_{n}.png", "mime": "image/png", "size": 3, "sha256": "aa", "md5": "bb"}
    return Asset(n, **{**named, **changes})


def proven(n: int = 0, **changes: Any) -> Asset:
    return asset(n, version=f"v{n}", verified_by="etag-md5", **changes)


def resting(seconds: float = 60.0, *, begun: bool = False) -> Reschedule:
    """Return a reschedule in so many seconds, early from a quarter of them on."""
    now = datetime.now(UTC)
    return Reschedule(
        now + timedelta(seconds=seconds), now + timedelta(seconds=seconds / 4), "KIE says waiting", set_generating=begun
    )


def delivered(count: int = 1) -> StoredResults:
    return StoredResults(
        [f"{OURS}?{n}" for n in range(count)], [f"user/image/generation_{n}.png" for n in range(count)]
    )
