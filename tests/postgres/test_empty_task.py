"""A task_id of '' is read as none, wherever rows are found, read and written: some applications write no NULL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.domain.model import Fail
from reconciler.postgres.create_rates import CreateRates
from reconciler.postgres.create_requests import CreateRequests
from reconciler.postgres.inbox import CallbackMessage, Inbox
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.reports.reports import Reports, ReportScope
from reconciler.postgres.stuck import StuckRows
from tests.postgres.books import Books, resting

NO_TASK = pytest.mark.parametrize("none", [None, ""])


async def offered(books: Books, generation_id: str, task_id: str) -> tuple[str, ...]:
    """Store a callback of this task that names the generation; return the rows that it wakes."""
    body: dict[str, Any] = {"code": 200}
    kept = await Inbox(books.database, books.table).keep(CallbackMessage(task_id, generation_id, body, "digest"))
    return kept.ids


@NO_TASK
async def test_the_sweep_finds_the_row_once(books: Books, none: str | None) -> None:
    generation_id = await books.insert(task_id=none)
    assert await books.claims().discover() == 1
    row, claim = await books.held(generation_id)
    assert row.task_id is None
    await books.ledger().rest(row, claim, resting())
    assert await books.claims().discover() == 0
    assert await books.claims().due(10) == []


@NO_TASK
async def test_a_callback_that_names_the_row_wakes_it_and_its_task_is_attached(books: Books, none: str | None) -> None:
    generation_id = await books.insert(task_id=none)
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting())
    assert await offered(books, generation_id, "task-9") == (generation_id,)
    row, claim = await books.held(generation_id)
    assert row.offered == ("task-9",)
    assert await books.ledger().adopt(row, claim, "task-9")
    assert (await books.generation(generation_id))["task_id"] == "task-9"


@NO_TASK
async def test_a_failure_is_written_and_the_row_can_be_reopened(books: Books, none: str | None) -> None:
    generation_id = await books.insert(task_id=none)
    row, claim = await books.held(generation_id)
    assert await books.ledger().fail(row, claim, Fail("no credits (402)")) == "failed"
    assert (await books.generation(generation_id))["status"] == "failed"
    assert await Reopener(books.database, books.table, term=30).reopen(generation_id)
    row, _ = await books.held(generation_id)
    assert (row.task_id, row.another_task) == (None, False)


@NO_TASK
async def test_what_is_known_of_the_row_stays_known(books: Books, none: str | None) -> None:
    generation_id = await books.insert(task_id=none)
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, replace(resting(), finding="no_task"))
    reports = Reports(books.database, books.table)
    assert (await reports.snapshot()).waiting == {"no_task": 1}
    details = await reports.details(generation_id)
    assert details is not None
    assert details.generation.task_id is None
    assert (await books.held(generation_id))[0].finding == "no_task"


async def test_a_first_task_after_an_empty_text_is_no_other_task(books: Books) -> None:
    generation_id = await books.insert(task_id="")
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting())
    await books.change(generation_id, "task_id = 'task-1'")
    assert await books.claims().discover() == 1
    row, _ = await books.held(generation_id)
    assert (row.task_id, row.another_task) == ("task-1", False)


@NO_TASK
async def test_the_task_of_an_order_is_saved_into_the_row(books: Books, none: str | None) -> None:
    generation_id = await books.insert(task_id=none)
    requests = CreateRequests(
        books.database, books.table, rates=CreateRates(books.database, rate=20, user_rate=6), provider="kie"
    )
    standing = await requests.state(generation_id)
    assert standing is not None
    assert standing.task_id is None
    saved = await requests.save(generation_id, "task-1", key_hash="hash", dialect="market")
    assert saved is not None
    assert saved.task_id == (await books.generation(generation_id))["task_id"] == "task-1"


@NO_TASK
async def test_the_log_says_that_a_stuck_row_has_no_task(books: Books, none: str | None) -> None:
    generation_id = await books.insert(task_id=none, age=3600)
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting())
    (stuck,) = await StuckRows(books.database, books.table, ReportScope()).mark()
    assert (stuck.generation_id, stuck.task_id) == (generation_id, None)
