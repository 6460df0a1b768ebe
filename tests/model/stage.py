"""What stands around the model: a database with a witness, a KIE, a storage, and instances that do single steps.

Built once, emptied for every example. Time does not pass here: it is moved, by moving everything that was written down
into the past.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest

from reconciler.bootstrap import Parts
from reconciler.bootstrap.http import route_services, task_creator
from reconciler.domain.model import Trigger
from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.errors import ReconcilerError
from reconciler.health import Health
from reconciler.http.app import application
from reconciler.http.readiness_gate import ReadinessGate
from reconciler.http.routes import callback
from reconciler.kie.callback_proofs import CallbackProofs
from reconciler.postgres import rate_limit
from reconciler.postgres.claims import unacknowledged_claims
from reconciler.postgres.clock import ClockMark
from reconciler.postgres.create_requests import Order, Requester
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.simulator import Simulator
from reconciler.simulator.world import RequestCounts
from reconciler.worker import visit, worker
from reconciler.worker.create import create_task, record_outcome
from reconciler.worker.create.create_task import CreateAnswer
from testkit.standins.storage import Bucket, SupabaseStorage
from tests.model.answers import LIMIT, Told, told
from tests.model.fate import FATE, Fate, fateful
from tests.postgres.books import opened
from tests.worker.rig import USER, Rig

DAEMON = "kie-reconciler"
SECRET = "the-callback-secret"
HERE = "http://127.0.0.1:9"

_WITNESS = """
CREATE SCHEMA witness;
CREATE TABLE witness.changes (id bigint GENERATED ALWAYS AS IDENTITY, op text, before jsonb, after jsonb);
CREATE TABLE witness.refunds (generation_id uuid, reason text);
CREATE SEQUENCE witness.ids;
CREATE FUNCTION witness.saw() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF current_setting('application_name') = 'kie-reconciler' THEN
        INSERT INTO witness.changes (op, before, after)
        VALUES (TG_OP, CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
                CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER witness AFTER INSERT OR UPDATE OR DELETE ON public.generations
    FOR EACH ROW EXECUTE FUNCTION witness.saw();
CREATE FUNCTION reconciler.on_failed(generation uuid, reason text) RETURNS void LANGUAGE sql AS
    'INSERT INTO witness.refunds VALUES (generation, reason)';
ALTER TABLE public.generations DROP CONSTRAINT IF EXISTS generations_status_check;
ALTER TABLE public.generations ALTER id
    SET DEFAULT ('00000000-0000-4000-9000-' || lpad(nextval('witness.ids')::text, 12, '0'))::uuid;
"""

# The names of rows come in the order of their making, so that the same steps always meet the same rows.
_EMPTY = """
DELETE FROM public.generations; DELETE FROM witness.changes; DELETE FROM witness.refunds;
DELETE FROM reconciler.work; DELETE FROM reconciler.assets; DELETE FROM reconciler.orphans;
DELETE FROM reconciler.events; DELETE FROM reconciler.callbacks; DELETE FROM reconciler.budget;
DELETE FROM reconciler.timings; DELETE FROM reconciler.requests; DELETE FROM reconciler.creations;
ALTER SEQUENCE witness.ids RESTART;
"""

_PASSES = """
UPDATE public.generations SET created_at = created_at - {i};
UPDATE reconciler.callbacks SET at = at - {i};
UPDATE reconciler.assets SET stored_at = stored_at - {i};
UPDATE reconciler.budget SET next_at = next_at - {i}, rests_until = rests_until - {i};
DELETE FROM reconciler.creations;
UPDATE reconciler.work
   SET healed_at = (SELECT array_agg(at - {i} ORDER BY at) FROM unnest(healed_at) AS at), {moved};
"""
_TIMES = (
    "due_at", "early_at", "lease_until", "acknowledged_at", "answered_at", "completed_at", "media_deadline",
    "looked_at", "delivered_at", "refunded_at", "ordered_at", "task_since", "failing_since", "empty_since",
    "empty_counted_at", "missing_since", "stuck_at",
)  # fmt: skip

_SEEN = """
SELECT json_build_object(
    'now', extract(epoch FROM clock_timestamp()),
    'changes', (SELECT json_agg(c ORDER BY c.id) FROM witness.changes c WHERE c.id > $1),
    'refunds', (SELECT json_agg(generation_id) FROM witness.refunds),
    'generations', (SELECT json_object_agg(g.id, to_jsonb(g)
                           || jsonb_build_object('age', extract(epoch FROM clock_timestamp() - g.created_at)))
                      FROM public.generations g),
    'work', (SELECT json_object_agg(w.generation_id, to_jsonb(w)
                    || jsonb_build_object('answered_ago', extract(epoch FROM clock_timestamp() - w.answered_at)))
               FROM reconciler.work w),
    'assets', (SELECT json_agg(a ORDER BY a.n) FROM reconciler.assets a),
    'orphans', (SELECT json_agg(o.path) FROM reconciler.orphans o),
    'events', (SELECT json_agg(e ORDER BY e.id) FROM reconciler.events e))
"""


class Provider(Simulator):
    """A KIE that counts what it is ordered to make before anything can go wrong with the order.

    `told` are the successes that it told of each task, on its page and in callbacks; `passed` are the seconds that
    were skipped.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.orders_heard = 0
        self.told: dict[str, list[Told]] = defaultdict(list)
        self.passed = 0.0

    def time(self) -> float:
        """Seconds as the daemon counts them."""
        return time.monotonic() + self.passed

    def tells(self, record: object, *, asked: bool) -> None:
        """Remember what a record or a callback says."""
        if (said := told(self, record, self.time(), asked=asked)) is not None:
            self.told[said[0]].append(said[1])

    async def _serve(self, request: Any) -> Any:
        self.orders_heard += request.path.endswith("/createTask")
        answer = await super()._serve(request)
        if request.path.endswith("/recordInfo") and answer.status == 200:
            with suppress(ValueError):
                said = json.loads(answer.body)
                self.tells(said.get("data") if isinstance(said, dict) else None, asked=True)
        return answer


@dataclass
class Asleep:
    """A step that is frozen within one instance; no other step of the instance runs meanwhile."""

    replica: int
    task: asyncio.Task[Any]
    fate: Fate


@dataclass
class Stage:
    """Everything outside, and the instances; a step of an instance ends, dies, or falls asleep."""

    rig: Rig
    kie: Provider
    storage: SupabaseStorage
    replicas: list[Parts]
    doors: list[httpx.AsyncClient]
    asleep: Asleep | None = None
    effects: Counter[str] = field(default_factory=Counter)

    async def empty(self) -> None:
        """Begin again with nothing."""
        await self.rig.pool.execute(_EMPTY)
        kie = self.kie
        for things in (kie.tasks, kie.links, kie.orders, kie._files, kie._ordered):
            things.clear()  # type: ignore[attr-defined]
        kie.counts, kie.orders_heard, kie.passed = RequestCounts(), 0, 0.0
        kie.told.clear()
        self.bound(LIMIT)
        for name in list(self.storage.objects):
            self.storage.shelf.remove(name)
        self.storage.history.clear()
        self.storage.faults.clear()
        for parts in self.replicas:
            # What an instance remembers by itself, so that the same steps always have the same effects.
            parts.worker._wakes.clear()
            parts.worker._early_at = 0.0
            parts.rate_limit._granted.clear()
            parts.rate_limit._rests.clear()
            parts.claims.unacknowledged._since = None

    def bound(self, results: int) -> None:
        """Set how many results of one task the operator allows."""
        for parts in self.replicas:
            parts.policy.limits = replace(parts.policy.limits, max_results=results)

    async def seen(self, after: int) -> Mapping[str, Any]:
        """Everything that is written down, and the daemon's changes of the application's table since `after`."""
        found: Mapping[str, Any] = json.loads(await self.rig.pool.fetchval(_SEEN, after))
        return found

    async def passes(self, seconds: float) -> None:
        """Let so much time pass for everybody."""
        i = f"interval '{seconds} seconds'"
        moved = ", ".join(f"{name} = {name} - {i}" for name in _TIMES)
        await self.rig.pool.execute(_PASSES.format(i=i, moved=moved))
        self.kie.passed += seconds
        for parts in self.replicas:
            for lease, _ in parts.worker._visits.values():
                lease.sent_at -= seconds

    async def drive(self, replica: int, step: Callable[[], Awaitable[Any]], fate: Fate) -> Any:
        """Let an instance do one step under this fate; None where it died, broke or fell asleep."""
        context = copy_context()
        context.run(FATE.set, fate)
        task = asyncio.create_task(step(), context=context)  # type: ignore[arg-type]
        struck = asyncio.create_task(fate.struck.wait())
        await asyncio.wait({task, struck}, return_when=asyncio.FIRST_COMPLETED)
        struck.cancel()
        if not task.done() and not fate.dead:
            self.asleep = Asleep(replica, task, fate)
            return None
        return await ended(task)

    async def wake(self, *, kill: bool = False) -> Any:
        """Let the step that stands still go on, or kill it there."""
        assert self.asleep is not None
        asleep, self.asleep = self.asleep, None
        asleep.fate.dead = kill
        asleep.fate.thawed.set()
        return await ended(asleep.task)

    async def lost(self) -> Mapping[str, str | None]:
        """The bookkeeping of every row with a lease that another instance took while its holder was frozen."""
        assert self.asleep is not None
        held = [lease.claim for lease, _ in self.replicas[self.asleep.replica].worker._visits.values()]
        sql = "SELECT lease FROM reconciler.work WHERE generation_id = $1"
        gone = [c.generation_id for c in held if await self.rig.pool.fetchval(sql, c.generation_id) != c.lease]
        return {row: await self.work(row) for row in gone}

    async def work(self, row: str) -> str | None:
        """Everything about a row but when it is audited: a lost lease brings that forward."""
        found: str | None = await self.rig.pool.fetchval(
            "SELECT (to_jsonb(w) - 'audit_at')::text || coalesce(jsonb_agg(a ORDER BY a.task_id, a.n)::text, '')"
            "  FROM reconciler.work w LEFT JOIN reconciler.assets a USING (generation_id)"
            " WHERE generation_id = $1 GROUP BY w.*",
            row,
        )
        return found

    async def once(self, replica: int, generation_id: str, trigger: Trigger, fate: Fate) -> Any:
        parts = self.replicas[replica]
        return await self.drive(replica, lambda: parts.worker.once(generation_id, trigger), fate)

    async def look(self, replica: int, fate: Fate) -> None:
        """One look of the loop: what was woken, what is due; and every visit that it begins."""
        held = self.replicas[replica].worker

        async def step() -> None:
            await held._claim()
            await asyncio.gather(*(task for _, task in held._visits.values()))

        await self.drive(replica, step, fate)

    async def sweep(self, replica: int, fate: Fate) -> None:
        """Find what was not announced, then look."""
        await self.drive(replica, self.replicas[replica].claims.discover, fate)
        if self.asleep is None or self.asleep.replica != replica:
            await self.look(replica, Fate())

    async def call(self, replica: int, body: Mapping[str, object], named: str | None, fate: Fate) -> int:
        """Post a callback to an instance; the status that it answers, 0 where it does not."""
        self.kie.tells(body.get("data"), asked=False)
        address = f"{CALLBACK_PATH}?secret={SECRET}" + (f"&generation={named}" if named else "")

        async def step() -> int:
            return (await self.doors[replica].post(address, json=body)).status_code

        return await self.drive(replica, step, fate) or 0

    async def order(self, replica: int, order: Order, asker: Requester, fate: Fate) -> CreateAnswer | None:
        """Order from KIE; a process that dies takes with it whatever it was still trying."""
        creation = task_creator(self.replicas[replica])

        async def step() -> CreateAnswer:
            making = asyncio.create_task(creation.create(order, asker))
            dying = asyncio.create_task(fate.struck.wait())
            try:
                await asyncio.wait({making, dying}, return_when=asyncio.FIRST_COMPLETED)
                if fate.struck.is_set() and not fate.dead:
                    await fate.thawed.wait()
                if fate.dead:
                    await creation.drain(0)
                answer = await making
                # What is still to be written waits for a lease to end: more than this process has time for.
                await creation.drain(0)
                return answer
            finally:
                dying.cancel()

        found: CreateAnswer | None = await self.drive(replica, step, fate)
        return found

    async def retry(self, replica: int, generation_id: str, fate: Fate) -> bool:
        """Reopen a failed row as an operator does."""
        parts = self.replicas[replica]
        reopening = Reopener(parts.database, parts.table, term=parts.settings.lease_seconds)
        return await self.drive(replica, lambda: reopening.reopen(generation_id), fate) is True

    def broken(self) -> float:
        """Visits that ended with an unexpected error."""
        return sum(parts.metrics.failures.labels("visit", "broke")._value.get() for parts in self.replicas)


async def ended(task: asyncio.Task[Any]) -> Any:
    """What came of a step; what the house foresees is no error."""
    try:
        return await task
    except ReconcilerError:
        return None


@asynccontextmanager
async def staged(dsn: str, folder: Path) -> AsyncIterator[Stage]:
    """The stage on this database, which is not used for anything else."""
    async with AsyncExitStack() as stack:
        stack.enter_context(fateful())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(rate_limit, "WINDOW", 0.0)
        patch.setattr(visit, "random", SimpleNamespace(random=lambda: 0.5))
        patch.setattr(worker, "IDLE_SECONDS", 0.0)
        patch.setattr(create_task, "WRITING", 0.05)
        patch.setattr(unacknowledged_claims, "KNOWN", 0.0)
        patch.setattr(record_outcome, "FIRST_PAUSE", 0.001)
        patch.setattr(worker, "CLAIM_PAUSE", 0.0)
        patch.setattr(worker, "BACKLOG_PAUSE", 0.0)
        kie = await stack.enter_async_context(Provider(limits=False, compress=False, hang_seconds=0.001))
        kie.slow_seconds, kie.origin = 0.0, f"http://localhost:{kie.port}"
        storage = await stack.enter_async_context(SupabaseStorage({"generations": Bucket()}))
        books = await stack.enter_async_context(opened(dsn))
        await books.pool.execute(_WITNESS)
        rig = Rig(dsn, books, kie, folder, storage)
        changes = {"KIE_CALLBACK_URL": HERE, "KIE_CALLBACK_SECRET": SECRET, "RECONCILER_POLL_RATE": "100000"}
        replicas = [await stack.enter_async_context(rig.instance(**changes)) for _ in range(3)]
        for parts in replicas:
            # As if another daemon had watched the database's clock until now.
            now = await books.pool.fetchval("SELECT clock_timestamp()")
            parts.ledger.clock.observe(now, asked_at=parts.ledger.clock.uptime, mark=ClockMark(steady_at=now))
        doors = [await stack.enter_async_context(door(parts)) for parts in replicas]
        yield Stage(rig, kie, storage, replicas, doors)


def door(parts: Parts) -> httpx.AsyncClient:
    """Where KIE calls this instance back, without a socket."""
    entrance = ReadinessGate(Health(patience=math.inf, reason=None))
    entrance.services = route_services(parts)
    routes = callback.routes(CallbackProofs(SECRET.encode()), entrance, parts.metrics)
    app = application(entrance.health, parts.metrics, routers=[routes])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=HERE)


async def insert(pool: asyncpg.Pool, *, age: float = 0, **columns: Any) -> str:
    """A row as the application writes it, or wrote it so many seconds ago."""
    values = {"user_id": USER, "kind": "image", "model_key": "nano-banana-2", **columns}
    places = ", ".join(f"${n}" for n in range(2, len(values) + 2))
    names = ", ".join(values)
    sql = f"INSERT INTO public.generations (created_at, {names}) VALUES (now() - $1 * interval '1 second', {places})"
    made: str = await pool.fetchval(f"{sql} RETURNING id::text", age, *values.values())
    return made
