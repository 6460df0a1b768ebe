"""The claiming loop survives hostile rows: an unreadable row is delayed by a minute, and no other row is."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reconciler.bootstrap import Parts
from reconciler.domain.model import Trigger
from reconciler.postgres.claims.queues import Queue
from testkit.waiting import until
from tests.worker.rig import Rig, opened_rig

UNINDEXABLE = 3000
"""Random bytes whose hexadecimal digits no B-tree takes, compressed or not."""


async def free(rig: Rig, generation_id: str) -> float | None:
    """The seconds until the row is due, None while it is held."""
    work = await rig.books.work(generation_id)
    return work["due_in"] if work is not None and work["lease"] is None else None


def unreadable(parts: Parts, bad: str, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Let every read that includes this row fail; return what was read."""
    read, requested = parts.ledger.read, []

    async def reads(ids: Sequence[str]) -> object:
        requested.append(ids)
        if bad in ids:
            raise OverflowError("date value out of range")
        return await read(ids)

    monkeypatch.setattr(parts.ledger, "read", reads)
    return requested


@pytest.mark.parametrize("at", ["12000-01-01", "4000-01-01 BC", "infinity", "-infinity"])
async def test_a_row_created_at_no_time_that_python_knows_is_delivered_like_any_other(
    rig: Rig, parts: Parts, at: str
) -> None:
    odd, plain = await rig.order(), await rig.order()
    await rig.books.change(odd, f"created_at = '{at}'")
    async with rig.working(parts):
        for generation_id in (odd, plain):
            parts.worker.wake(generation_id)

        async def delivered() -> bool:
            sql = "SELECT count(*) FROM public.generations WHERE status = 'success'"
            return await rig.pool.fetchval(sql) == 2

        await until(delivered, what="both")


@pytest.mark.parametrize("how", ["wakes", "sweep"])
async def test_a_task_id_too_long_for_an_index_delays_no_other_row(dsn: str, tmp_path: Path, how: str) -> None:
    async with opened_rig(dsn, tmp_path) as rig:
        await rig.pool.execute("DROP INDEX public.generations_task_id")
        bad, good = await rig.insert(secrets.token_hex(UNINDEXABLE)), await rig.order()
        async with rig.instance() as parts, rig.working(parts):
            if how == "sweep":
                assert await parts.claims.discover() == 1
                parts.worker.stir()
            else:
                for generation_id in (bad, good):
                    parts.worker.wake(generation_id)
            await rig.delivered(good)
            assert (await parts.reports.snapshot()).in_flight == {}, (
                "a row that is never visited must not alert for ever"
            )
        assert await rig.books.work(bad) is None


async def test_an_unreadable_row_waits_a_minute_and_the_rows_claimed_with_it_are_visited_at_once(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, last = await rig.order(), await rig.order(), await rig.order()
    requested = unreadable(parts, bad, monkeypatch)
    assert await parts.claims.discover() == 3
    with capture_logs() as lines:
        async with rig.working(parts):
            parts.worker.stir()
            for generation_id in (good, last):
                await rig.delivered(generation_id, within=5)
            due = await until(lambda: free(rig, bad), what="the row is given back")
    assert 50 < due <= 60
    assert sorted(requested[0]) == sorted([good, bad, last])
    (line,) = [line for line in lines if line["event"] == "visit.broke"]
    assert (line["generation_id"], line["log_level"], line["exc_info"]) == (bad, "error", True)
    assert parts.metrics.failures.labels("visit", "broke")._value.get() == 1


async def test_an_error_in_a_claim_is_logged_and_the_loop_goes_on(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    due, broke = parts.claims.due, 0

    async def breaks(limit: int, held: Mapping[Queue, int]) -> object:
        nonlocal broke
        broke += 1
        return await due(limit, held) if broke > 1 else 1 / 0

    monkeypatch.setattr(parts.claims, "due", breaks)
    generation_id = await rig.order()
    await parts.claims.discover()
    with capture_logs() as lines:
        async with rig.working(parts):
            await rig.delivered(generation_id, within=5)
    (line,) = [line for line in lines if line["event"] == "claims.broke"]
    assert (line["log_level"], line["exc_info"]) == ("error", True)


async def test_rows_that_were_claimed_when_something_broke_are_given_back_at_once(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, good = await rig.order(), await rig.order()
    read, forget, broke = parts.ledger.read, parts.ledger.forget, 0

    async def late(ids: Sequence[str]) -> object:
        await rig.pool.execute("DELETE FROM public.generations WHERE id::text = $1", gone)
        return await read(ids)

    async def breaks(claim: object) -> None:
        nonlocal broke
        broke += 1
        if broke == 1:
            raise ZeroDivisionError
        await forget(claim)  # type: ignore[arg-type]

    monkeypatch.setattr(parts.ledger, "read", late)
    monkeypatch.setattr(parts.ledger, "forget", breaks)
    assert await parts.claims.discover() == 2
    async with rig.working(parts):
        parts.worker.stir()
        await rig.delivered(good, within=5)

        async def forgotten() -> bool:
            return await rig.books.work(gone) is None

        await until(forgotten, within=5, what="the row is forgotten")
    assert broke == 2


async def test_a_single_visit_that_cannot_read_its_row_gives_it_back(
    rig: Rig, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id = await rig.order()
    unreadable(parts, generation_id, monkeypatch)
    with pytest.raises(OverflowError):
        await parts.worker.once(generation_id, Trigger.SYNC)
    assert await free(rig, generation_id) is not None
