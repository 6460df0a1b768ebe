"""Rows whose time of creation neither Python nor an interval can hold break no statement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.postgres.poll_stats import PollStats
from reconciler.postgres.reports.generation_list import GenerationList
from reconciler.postgres.reports.reports import Reports, ReportScope
from tests.postgres.books import Books, opened

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = ["12000-01-01", "4000-01-01 BC", "infinity", "-infinity"]
PAST = ("4000-01-01 BC", "-infinity")


@pytest.fixture
async def rows(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as books:
        yield books


@pytest.mark.parametrize("at", TIMES)
async def test_every_report_works(rows: Books, at: str) -> None:
    generation_id = await rows.insert()
    row, claim = await rows.held(generation_id)
    await rows.ledger().note(row, claim)
    await rows.change(generation_id, f"created_at = '{at}'")
    await rows.set(generation_id, "due_at = now(), answered_at = now(), delivered_at = now()")
    reports = Reports(rows.database, rows.table)
    snapshot, status = await reports.snapshot(), await reports.status()
    stuck = await reports.stuck()
    assert (status.in_flight, snapshot.stuck, len(stuck)) == (1, int(at in PAST), int(at in PAST))
    assert snapshot.oldest is not None
    assert snapshot.oldest >= 0
    case = await reports.details(generation_id)
    assert case is not None
    assert case.generation.created_at == EPOCH if at in PAST else case.generation.created_at <= case.now


@pytest.mark.parametrize("at", TIMES)
async def test_durations_are_learned_and_rows_are_listed(rows: Books, at: str) -> None:
    generation_id = await rows.insert()
    await rows.held(generation_id)
    await rows.change(generation_id, f"created_at = '{at}'")
    await rows.set(generation_id, "due_at = now(), answered_at = now()")
    assert (await PollStats(rows.database, rows.table, rate=5).learn()).poll_price > 0
    listing = GenerationList(rows.database, rows.table, ReportScope())
    assert [row.id for row in await listing.page(None)] == [generation_id]
    assert [row.id for row in await listing.stuck(None)] == [generation_id] * (at in PAST)


@pytest.mark.parametrize("at", TIMES)
async def test_the_ledger_reads_a_finite_time(rows: Books, at: str) -> None:
    generation_id = await rows.insert()
    await rows.change(generation_id, f"created_at = '{at}'")
    await rows.claim(generation_id)
    held = (await rows.ledger().read([generation_id]))[generation_id]
    age = held.now - held.row.created_at
    assert timedelta() <= age <= held.now - EPOCH
    assert (age > timedelta(days=1)) is (at in PAST)


async def test_a_normal_time_is_read_as_it_is(rows: Books) -> None:
    generation_id = await rows.insert()
    await rows.change(generation_id, "created_at = '2020-02-29 12:00:00+00'")
    await rows.claim(generation_id)
    held = (await rows.ledger().read([generation_id]))[generation_id]
    assert held.row.created_at == datetime(2020, 2, 29, 12, tzinfo=UTC)
