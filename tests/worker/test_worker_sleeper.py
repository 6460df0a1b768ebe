"""A visit that slept past its lease and woke up next to its successor: what it still did is compared with receipts."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.errors import LeaseLost, Transient
from reconciler.simulator import MediaSpec
from reconciler.worker.lease import Lease
from testkit.waiting import until
from tests.worker.rig import Rig


@dataclass
class Sleeper:
    """Stops the first file that is synced until `awake` is set."""

    asleep: threading.Event = field(default_factory=threading.Event)
    awake: threading.Event = field(default_factory=threading.Event)

    def sync(self, real: Callable[[int], None], number: int) -> None:
        if not self.asleep.is_set():
            self.asleep.set()
            self.awake.wait(60)
        real(number)


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The first write of this test sleeps at the step between the bytes and the rename."""
    one, real = Sleeper(), os.fsync
    monkeypatch.setattr("reconciler.storage.local.os.fsync", lambda number: one.sync(real, number))
    yield one
    one.awake.set()


async def audit_in(rig: Rig, generation_id: str) -> float:
    """Return the seconds until the delivery is audited."""
    sql = "SELECT extract(epoch FROM audit_at - now())::float8 FROM reconciler.work WHERE generation_id = $1"
    return float(await rig.pool.fetchval(sql, generation_id))


async def taken_over(rig: Rig, sleeper: Sleeper, parts: Parts) -> tuple[str, asyncio.Task[Any]]:
    """Let a visit fall asleep and another instance deliver the row; return the row and the sleeping visit."""
    generation_id = await rig.order(results=(MediaSpec(),))
    visit = asyncio.create_task(parts.worker.once(generation_id, Trigger.SYNC))
    await until(sleeper.asleep.is_set, what="the visit sleeps before its rename")
    for lease, _ in parts.worker._visits.values():
        lease.sent_at -= 2 * lease.term
    await rig.abandoned(generation_id)
    async with rig.instance() as successor:
        await rig.visit(successor, generation_id)
    await rig.books.set(generation_id, "audit_at = now() + interval '30 days'")
    return generation_id, visit


async def test_a_visit_that_slept_past_its_lease_leaves_its_successors_file_and_has_the_row_audited(
    rig: Rig, parts: Parts, sleeper: Sleeper
) -> None:
    """N9: before, its rename replaced the delivered file, and the next audit was a month away."""
    generation_id, visit = await taken_over(rig, sleeper, parts)
    (name,) = rig.names()
    delivered = (rig.folder / "stored" / name).stat()

    sleeper.awake.set()
    with pytest.raises(LeaseLost):
        await visit

    assert rig.names() == [name]
    after = (rig.folder / "stored" / name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (delivered.st_ino, delivered.st_mtime_ns)
    assert await audit_in(rig, generation_id) <= parts.worker.lease_seconds
    await rig.proves(generation_id)


async def test_an_object_that_a_sleeping_visit_replaced_all_the_same_is_found_broken_and_delivered_again(
    rig: Rig, parts: Parts, sleeper: Sleeper
) -> None:
    """N9: an upload that storage completes after the lease was lost heals without the monthly audit."""
    generation_id, visit = await taken_over(rig, sleeper, parts)
    (name,) = rig.names()
    sleeper.awake.set()
    with pytest.raises(LeaseLost):
        await visit
    (rig.folder / "stored" / name).write_bytes(b"what the sleeper sent last")

    await rig.books.set(generation_id, "audit_at = audit_at - interval '1 minute'")
    await parts.verification.run_once()
    await rig.visit(parts, generation_id)

    assert await rig.books.events(generation_id) == ["succeeded", "repaired"]
    await rig.proves(generation_id)


async def test_a_row_whose_audit_cannot_be_planned_yet_has_it_planned_once_it_can(
    rig: Rig, parts: Parts, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id, visit = await taken_over(rig, sleeper, parts)

    async def away(_: object) -> tuple[str, ...]:
        raise Transient("the database is away", code="database_away")

    with monkeypatch.context() as outage:
        outage.setattr(parts.claims, "audit_lost", away)
        sleeper.awake.set()
        with pytest.raises(LeaseLost):
            await visit
    assert await audit_in(rig, generation_id) > 86_400

    async with rig.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM reconciler.work FOR UPDATE")
        await parts.worker._releases.retry()
    assert await audit_in(rig, generation_id) > 86_400, "the row was being written"
    async with rig.working(parts):
        parts.worker.stir()

        async def soon() -> bool:
            return await audit_in(rig, generation_id) <= parts.worker.lease_seconds

        await until(soon, what="the audit is planned")


@pytest.mark.parametrize("loop", [False, True])
async def test_a_visit_that_ends_otherwise_after_its_lease_ended_has_its_row_audited_too(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch, *, loop: bool
) -> None:
    """The database is away at the moment at which the visit would learn that its lease is lost."""

    async def late(_: object, lease: Lease) -> None:
        generation_id = lease.claim.generation_id
        await rig.books.set(generation_id, "delivered_at = now(), audit_at = now() + interval '30 days'")
        lease.sent_at -= 2 * lease.term
        raise Transient("the database is away", code="database_away")

    monkeypatch.setattr(parts.worker.visitor, "visit", late)
    generation_id = await rig.order()
    if not loop:
        with pytest.raises(Transient):
            await parts.worker.once(generation_id, Trigger.SYNC)
        assert await audit_in(rig, generation_id) <= parts.worker.lease_seconds
        return
    async with rig.working(parts):
        parts.worker.wake(generation_id)

        async def soon() -> bool:
            planned = "SELECT true FROM reconciler.work WHERE audit_at < now() + interval '1 hour'"
            return bool(await rig.pool.fetchval(planned))

        await until(soon, what="the audit is planned")
