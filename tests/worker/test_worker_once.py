"""One generation at a time, as the operations visit it: it is not held by another visit, and it is given back."""

from __future__ import annotations

import asyncio

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.errors import LeaseLost, Transient
from reconciler.operations.operator import leases_kept
from reconciler.simulator import never
from reconciler.worker import poll
from testkit.waiting import until
from tests.worker.rig import Rig


async def test_what_another_instance_holds_is_not_visited_but_woken(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    await rig.books.claim(generation_id)
    assert await parts.worker.once(generation_id, Trigger.SYNC) is None
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["woken"] == 1


async def test_an_unknown_id_is_not_visited(rig: Rig, parts: Parts) -> None:
    for name in ("00000000-0000-0000-0000-000000000000", "no id"):
        assert await parts.worker.once(name, Trigger.SYNC) is None


async def test_an_id_in_capital_letters_is_found(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    assert await parts.worker.once(generation_id.upper(), Trigger.SYNC) is not None
    await rig.proves(generation_id)


async def test_a_visit_that_breaks_gives_its_row_back(rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    generation_id = await rig.order()
    monkeypatch.setattr(poll, "judge", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await parts.worker.once(generation_id, Trigger.SYNC)
    await free(rig, generation_id)


async def test_a_lost_lease_does_not_cancel_the_caller_of_the_visit(rig: Rig, parts: Parts) -> None:
    brief = rig.broad(parts, term=0.6)
    generation_id = await rig.order()
    rig.kie.strike("file.hang")

    async def ask() -> str:
        with pytest.raises(LeaseLost):
            await brief.worker.once(generation_id, Trigger.SYNC)
        return "goes on"

    async with leases_kept(brief.worker):
        asking = asyncio.create_task(ask())
        await until(lambda: rig.kie.counts.faults["file.hang"], what="the download")
        await rig.books.set(generation_id, "lease = NULL, lease_until = NULL, due_at = now() + interval '1 hour'")
        assert await asyncio.wait_for(asking, 15) == "goes on"


async def test_a_caller_that_is_cancelled_while_the_lease_is_lost_stays_cancelled(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order()
    rig.kie.strike("file.hang")
    asking = asyncio.create_task(parts.worker.once(generation_id, Trigger.SYNC))
    await until(lambda: rig.kie.counts.faults["file.hang"], what="the download")
    ((lease, _),) = parts.worker._visits.values()
    lease.lost = True
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()


async def test_a_visit_that_cannot_end_gives_its_row_back(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id = await rig.order()

    async def moving(*_: object) -> None:
        return None

    monkeypatch.setattr(parts.ledger, "finish", moving)
    with pytest.raises(Transient) as raised:
        await parts.worker.once(generation_id, Trigger.SYNC)
    assert raised.value.code == "row_moving"
    await free(rig, generation_id)


async def test_a_visit_whose_caller_is_cancelled_gives_its_row_back(rig: Rig, parts: Parts) -> None:
    generation_id = await rig.order(life=never())
    rig.kie.strike("record.hang")
    visiting = asyncio.create_task(parts.worker.once(generation_id, Trigger.SYNC))
    await until(lambda: rig.kie.counts.faults["record.hang"], what="KIE is asked")
    visiting.cancel()
    await asyncio.gather(visiting, return_exceptions=True)
    assert visiting.cancelled()
    await free(rig, generation_id)


async def test_a_row_that_is_deleted_before_it_is_read_is_forgotten(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id = await rig.order()
    read = parts.ledger.read

    async def late(ids: list[str]) -> object:
        await rig.pool.execute("DELETE FROM public.generations")
        return await read(ids)

    monkeypatch.setattr(parts.ledger, "read", late)
    assert await parts.worker.once(generation_id, Trigger.SYNC) is None
    assert await rig.books.work(generation_id) is None


async def free(rig: Rig, generation_id: str) -> None:
    work = await rig.books.work(generation_id)
    assert work is not None
    assert work["lease"] is None
    assert work["due_in"] <= 60


async def test_no_visit_begins_once_a_drain_has_begun(rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    before, meanwhile = await rig.order(), await rig.order()
    read = parts.ledger.read

    async def slowly(ids: list[str]) -> object:
        await parts.worker.drain(0)
        return await read(ids)

    monkeypatch.setattr(parts.ledger, "read", slowly)
    for generation_id in (meanwhile, before):
        with pytest.raises(Transient) as raised:
            await parts.worker.once(generation_id, Trigger.SYNC)
        assert raised.value.code == "draining"
    await free(rig, meanwhile)
    assert await rig.books.work(before) is None
    assert rig.kie.counts.records == 0
