"""`backfill`: successes that were never stored are delivered."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from reconciler.errors import Transient
from reconciler.operations.backfill import backfill, find_unstored
from reconciler.operations.operator import OperationOutcome, Operator
from reconciler.simulator import Simulator
from testkit.rows import OURS, add, state

FILES = "http://127.0.0.1:9/files"
DAY = timedelta(days=1)


async def run(operator: Operator) -> dict[str, OperationOutcome]:
    outcomes = await backfill(operator, on_page=lambda _looked_at, _found: None, on_outcome=lambda _: None)
    return {one.generation_id: one for one in outcomes}


async def test_backfill_delivers_every_success_without_an_asset_of_ours(
    kie: Simulator, pool: Any, operator: Operator
) -> None:
    tasks = [kie.add_task() for _ in range(6)]
    empty = [await add(pool, "success", 2 * DAY, task_id=task) for task in tasks[:5]]
    theirs = await add(pool, "success", DAY, task_id=tasks[5], asset_url="https://tempfile.aiquickdraw.com/x.png")
    blank = await add(pool, "success", DAY, task_id=kie.add_task(), asset_url="")
    healthy = await add(pool, "success", DAY, asset_url=f"{OURS}/one.png")

    outcomes = await run(operator)

    assert set(outcomes) == {*empty, theirs, blank}
    assert {one.word for one in outcomes.values()} == {"delivered"}
    for row in (*empty, theirs, blank):
        assert (await state(pool, row))["asset_url"].startswith(FILES)
    assert (await state(pool, healthy))["asset_url"] == f"{OURS}/one.png"
    assert await run(operator) == {}


async def test_a_success_that_cannot_be_delivered_is_remembered_and_stops_no_other(
    kie: Simulator, pool: Any, operator: Operator
) -> None:
    refused = await add(pool, "success", DAY, task_id=kie.add_task(fate="fail"))
    dead = await add(pool, "success", 40 * DAY, task_id="forgotten")
    good = await add(pool, "success", DAY, task_id=kie.add_task())
    versions = {row: (await state(pool, row))["version"] for row in (refused, dead)}

    outcomes = await run(operator)

    assert {row: one.word for row, one in outcomes.items()} == {refused: "left", dead: "left", good: "delivered"}
    assert "KIE refused the task" in outcomes[refused].why
    assert "nothing left to fetch" in outcomes[dead].why
    for row in (refused, dead):
        after = await state(pool, row)
        assert (after["due_at"], after["version"]) == (None, versions[row])


async def test_finding_what_to_deliver_changes_nothing(kie: Simulator, pool: Any, operator: Operator) -> None:
    row = await add(pool, "success", DAY, task_id=kie.add_task())
    pages: list[tuple[int, int]] = []

    found = await find_unstored(operator.reports, lambda *counts: pages.append(counts))

    assert (found, pages, kie.counts.records) == ([row], [(1, 1)], 0)
    assert await pool.fetchval("SELECT count(*) FROM reconciler.work") == 0


async def test_a_visit_that_breaks_costs_only_its_own_row(
    kie: Simulator, pool: Any, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [await add(pool, "success", DAY, task_id=kie.add_task()) for _ in range(3)]
    once = operator.worker.once

    async def breaks(generation_id: str, *more: Any) -> Any:
        if generation_id == rows[1]:
            raise RuntimeError("a secret may stand here")
        return await once(generation_id, *more)

    monkeypatch.setattr(operator.worker, "once", breaks)
    outcomes = await run(operator)

    assert [outcomes[row].word for row in rows] == ["delivered", "working", "delivered"]
    assert outcomes[rows[1]].why == "the visit broke: RuntimeError"


async def test_backfill_stops_when_the_database_is_away(
    kie: Simulator, pool: Any, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        await add(pool, "success", DAY, task_id=kie.add_task())
    tried: list[str] = []

    async def away(generation_id: str, *_: object) -> None:
        tried.append(generation_id)
        raise Transient("the database is away", code="database_away")

    monkeypatch.setattr(operator.worker, "once", away)
    with pytest.raises(Transient, match="away"):
        await run(operator)

    assert len(tried) <= operator.at_once
