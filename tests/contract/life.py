"""Runs every statement that the daemon has for the database once, over rows made for it.

`database` is anything with the methods of `Database`: one opened as the least privileged role, or one that watches
the plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from reconciler.domain.model import Asset, Fail, Reschedule, Row, Trigger
from reconciler.domain.object_keys import AddressRules
from reconciler.domain.results import from_addresses
from reconciler.postgres.claims.claims import Claim, Claims
from reconciler.postgres.create_rates import CreateRates
from reconciler.postgres.create_requests import CreateRequests, Order, OrderBegun, Requester, TaskStart
from reconciler.postgres.eligibility import EligibleRows
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.hooks import DeliveredHook
from reconciler.postgres.ledger.ledger import ClaimedRow, Ledger, StoredResults
from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.rate_limit import RateLimit
from reconciler.postgres.reports.reports import ReportScope
from reconciler.postgres.retention import Retention
from reconciler.postgres.schema import TableShape
from reconciler.postgres.stuck import StuckRows

REACH = EligibleRows(("kie",), ".+", AddressRules(("aiquickdraw.com", "kie.ai")))
SOURCE = "https://tempfile.aiquickdraw.com/r/1.png"
VIEWS = ("success_rate_24h", "time_to_completion", "storage_usage", "stuck_over_10_minutes", "failed_last_hour")


async def queued(owner: asyncpg.Connection, count: int = 5) -> list[str]:
    """Fresh rows of the specification's table, by their ids."""
    rows = await owner.fetch(
        "INSERT INTO public.generations (user_id, kind, model_key, task_id)"
        " SELECT gen_random_uuid(), 'image', 'flux', 'task-' || n FROM generate_series(1, $1) AS n RETURNING id::text",
        count,
    )
    return [row[0] for row in rows]


class Life:
    """One instance's whole vocabulary towards a database."""

    def __init__(self, database: Any, table: TableShape) -> None:
        self.database = database
        self.table = table
        self.claims = Claims(database, table, REACH, instance=uuid4(), term=30)
        self.ledger = Ledger(database, table)

    async def claim(self, generation_id: str) -> tuple[Claim, Row]:
        """Claim one generation and read it."""
        (claim,) = await self.claims.woken({generation_id: Trigger.SYNC})
        held: dict[str, ClaimedRow] = await self.ledger.read([generation_id])
        return claim, replace(held[generation_id].row, results=from_addresses((SOURCE,)))

    async def deliver(self, generation_id: str) -> str | None:
        """From a claim to a proven success."""
        claim, row = await self.claim(generation_id)
        path = f"{row.user_id}/image/{row.id}_0.png"
        asset = Asset(0, path, "image/png", 3, "sha", "md5", version="1", verified_by="etag-md5")
        await self.ledger.note(row, claim)
        await self.ledger.intend(row, claim, asset)
        await self.ledger.save_upload_name(row, claim, 0, "upload")
        await self.ledger.stored(row, claim, asset)
        return await self.ledger.finish(row, claim, StoredResults([f"https://ours/{path}"], [path]))

    async def rest(self, generation_id: str) -> None:
        """Look again later; the row begins to generate."""
        claim, row = await self.claim(generation_id)
        now = datetime.now(UTC)
        await self.ledger.rest(row, claim, Reschedule(now + timedelta(hours=1), now, "working", set_generating=True))

    async def fail(self, generation_id: str) -> str | None:
        """The provider's own word."""
        claim, row = await self.claim(generation_id)
        return await self.ledger.fail(row, claim, Fail("refused (500)"))

    async def order(self, key: str, user_id: str | None = None) -> str | None:
        """An order of an end user; the id of its row, None where the key has been used."""
        user_id = user_id or str(uuid4())
        rates = CreateRates(self.database, rate=20, user_rate=6)
        requests = CreateRequests(self.database, self.table, rates=rates, provider="kie")
        order, requester = Order("flux", {"prompt": "a cat"}, "image", user_id=user_id), Requester(user_id, key)
        await requests.find(requester)
        begun = await requests.begin(order, requester, TaskStart("market"), ["key"], patience=45)
        if begun is None:
            return None
        assert isinstance(begun, OrderBegun)
        await rates.grant("key")
        await rates.count_attempt(user_id)
        await requests._hook.note_failure("no wallet")
        await requests.save(begun.generation_id, f"task-{key}", key_hash="key", dialect="market")
        return begun.generation_id

    async def tell(self) -> int:
        """The calls of on_delivered that are due; how many."""
        hook = DeliveredHook(self.database, self.table)
        count = 0
        while await hook.call_next() is not None:
            count += 1
        return count

    async def spend(self, ids: Sequence[str]) -> None:
        """Discovery, claims of every kind, renewal, release, and what only rounds say."""
        await self.claims.discover()
        await self.claims.retry_refused()
        held = await self.claims.due(100)
        assert {claim.generation_id for claim in held} >= set(ids)
        assert await self.claims.renew(held) == {claim.lease for claim in held}
        await self.claims.release(held, seconds=0)
        await self.claims.early(100)
        await self.claims.next_due()
        await RateLimit(self.database, 1000).take("key")
        await RateLimit(self.database, 1000).pause("key", 0)
        presence = Heartbeat(self.database, uuid4(), term=30)
        await presence.beat({})
        assert await presence.lead()
        await presence.leave()
        tempo = PollStats(self.database, self.table, rate=5)
        await tempo.learn()
        assert await tempo.recall()
        await tempo.trim()
        upkeep = Retention(self.database, self.table, term=30)
        await upkeep.failed(timedelta(days=30))
        await upkeep.traces()
        await StuckRows(self.database, self.table, ReportScope()).mark()

    async def play(self, owner: asyncpg.Connection) -> dict[str, str]:
        """Do everything that the daemon does with rows; return the ids of those that stay, with their statuses."""
        delivered, failed, resting, left, deleted = ids = await queued(owner)
        await self.spend(ids)
        assert await self.deliver(delivered) == "succeeded"
        assert await self.fail(failed) == "failed"
        await self.rest(resting)
        claim, row = await self.claim(left)
        await self.ledger.leave(row, claim, "cancelled")
        claim, _ = await self.claim(deleted)
        await owner.execute("DELETE FROM public.generations WHERE id::text = $1", deleted)
        await self.ledger.forget(claim)
        await self.views()
        return {delivered: "success", failed: "failed", resting: "generating", left: "queued"}

    async def views(self) -> None:
        """What people and dashboards ask."""
        for view in VIEWS:
            await self.database.fetch(f"SELECT * FROM reconciler.{view}")
