"""Results that KIE has announced and not given yet: how long they are waited for, and what happens when they come."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from reconciler.bootstrap import Parts, operator
from reconciler.domain.model import Finish, Reschedule
from reconciler.operations.sync import sync
from reconciler.simulator import LiteralAnswer, MediaSpec
from tests.worker.rig import Rig

FOREVER = 1_000_000


def listing(*entries: object) -> LiteralAnswer:
    """Return the market's success with these entries in its list of results; it is given from now on."""
    result = json.dumps({"resultUrls": list(entries)})
    return LiteralAnswer({"taskId": "task:id", "state": "success", "resultJson": result}, polls=FOREVER)


async def ordered(rig: Rig, count: int, *entries: object) -> str:
    """Return a row whose task has `count` files, and whose record lists these entries."""
    generation_id = await rig.order(status="generating", results=[MediaSpec(size=1000 + n) for n in range(count)])
    await says(rig, generation_id, *entries)
    return generation_id


async def says(rig: Rig, generation_id: str, *entries: object) -> None:
    rig.kie.answer_with((await rig.books.generation(generation_id))["task_id"], listing(*entries))


async def shown_by_half(rig: Rig, parts: Parts, *entries: object) -> str:
    """Return a row of two results that was delivered with one, because the other did not come in time."""
    generation_id = await ordered(rig, 2, *(entries or ("file:0", None)))
    assert isinstance((await rig.visit(parts, generation_id)).decision, Reschedule)
    await rig.elapse(generation_id, 21)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    return generation_id


async def files(rig: Rig, generation_id: str) -> list[int]:
    """Return which of the task's files are shown, in the order of asset_urls."""
    generation = await rig.books.generation(generation_id)
    task = rig.kie.tasks[generation["task_id"]]
    known = [rig.kie.sha256(task.id, n) for n in range(len(task.results))]
    shown = json.loads(generation["asset_urls"])
    return [known.index(hashlib.sha256(rig.stored(address)).hexdigest()) for address in shown]


async def work(rig: Rig, generation_id: str) -> Any:
    found = await rig.books.work(generation_id)
    assert found is not None
    return found


async def test_a_result_without_an_id_that_comes_with_one_is_the_same_result(rig: Rig, parts: Parts) -> None:
    generation_id = await ordered(rig, 2, {"id": "a", "url": "file:0"}, None)
    await rig.visit(parts, generation_id)

    await says(rig, generation_id, {"id": "a", "url": "file:0"}, {"id": "b", "url": "file:1"})
    await rig.visit(parts, generation_id)

    await rig.proves(generation_id)


async def test_a_known_result_that_is_listed_as_null_is_no_further_result(rig: Rig, parts: Parts) -> None:
    generation_id = await ordered(rig, 2, {"id": "a", "url": "file:0"}, {"id": "b", "url": "file:1"})
    rig.kie.strike("file.500", times=1)
    await rig.visit(parts, generation_id)

    await says(rig, generation_id, {"id": "a", "url": "file:0"}, None)
    await rig.books.set(generation_id, "stale = true")
    await rig.visit(parts, generation_id)

    await rig.proves(generation_id)


async def test_a_failure_beside_results_ends_the_wait_for_the_others(rig: Rig, parts: Parts) -> None:
    generation_id = await ordered(rig, 2, "file:0", None)
    await rig.visit(parts, generation_id)

    failed = {"taskId": "task:id", "state": "fail", "failMsg": "the second take failed", "failCode": "500"}
    answer = LiteralAnswer({**failed, "resultJson": json.dumps({"resultUrls": ["file:0", None]})}, polls=FOREVER)
    rig.kie.answer_with((await rig.books.generation(generation_id))["task_id"], answer)
    visited = await rig.visit(parts, generation_id)

    assert visited.decision == Finish()
    assert await files(rig, generation_id) == [0]
    assert (await work(rig, generation_id))["due_at"] is None


async def test_what_is_stored_is_delivered_in_time_though_kie_is_silent(rig: Rig, parts: Parts) -> None:
    generation_id = await ordered(rig, 2, "file:0", None)
    await rig.visit(parts, generation_id)
    rig.kie.strike("record.http_500", times=9)
    assert isinstance((await rig.visit(parts, generation_id)).decision, Reschedule)

    await rig.elapse(generation_id, 21)

    assert isinstance((await rig.visit(parts, generation_id)).decision, Finish)
    assert await files(rig, generation_id) == [0]
    assert (await work(rig, generation_id))["finding"] == "results_missing"


async def test_one_refused_result_does_not_keep_the_others_from_being_stored(rig: Rig, parts: Parts) -> None:
    elsewhere = "https://unlisted.example/one.png"
    generation_id = await ordered(rig, 2, elsewhere, "file:1")

    visited = await rig.visit(parts, generation_id)

    assert isinstance(visited.decision, Reschedule)
    assert (await work(rig, generation_id))["finding"] == "host_unlisted"
    task_id = (await rig.books.generation(generation_id))["task_id"]
    assert await rig.receipts(generation_id) == [rig.kie.sha256(task_id, 1)]


async def test_an_object_that_is_shown_is_repaired_where_it_stands(rig: Rig, parts: Parts) -> None:
    generation_id = await shown_by_half(rig, parts, None, "file:1")
    shown = (await rig.books.generation(generation_id))["asset_url"]
    await says(rig, generation_id, "file:0", "file:1")
    await rig.visit(parts, generation_id)
    assert await files(rig, generation_id) == [0, 1]

    (rig.folder / "stored" / shown.partition("/files/")[2]).unlink()
    await rig.books.set(generation_id, "audit_at = now() - interval '1 second'")
    await parts.verification.run_once()
    await rig.visit(parts, generation_id)

    assert (await rig.books.generation(generation_id))["asset_url"] == shown
    assert await files(rig, generation_id) == [0, 1]
    assert await rig.books.events(generation_id) == ["succeeded", "extended", "repaired"]


async def test_a_delivery_without_every_result_is_compared_with_storage(rig: Rig, parts: Parts) -> None:
    generation_id = await shown_by_half(rig, parts, None, "file:1")
    shown = (await rig.books.generation(generation_id))["asset_url"]

    (rig.folder / "stored" / shown.partition("/files/")[2]).unlink()
    await rig.books.set(generation_id, "audit_at = now() - interval '1 second'")
    await parts.verification.run_once()
    await rig.visit(parts, generation_id)

    assert (await rig.books.generation(generation_id))["asset_url"] == shown
    assert await files(rig, generation_id) == [1]
    assert await rig.books.events(generation_id) == ["succeeded", "repaired"]
    found = await work(rig, generation_id)
    assert (found["finding"], found["reopened"]) == ("results_missing", False)
    assert found["due_at"] is not None


async def test_a_late_result_does_not_stand_in_for_one_that_storage_lost(rig: Rig, parts: Parts) -> None:
    generation_id = await shown_by_half(rig, parts)
    generation = await rig.books.generation(generation_id)
    shown = generation["asset_url"]
    (rig.folder / "stored" / shown.partition("/files/")[2]).unlink()
    await rig.books.set(generation_id, "audit_at = now() - interval '1 second'")
    await parts.verification.run_once()
    await says(rig, generation_id, None, "file:1")
    await rig.books.set(generation_id, "results = jsonb_set(results, '{0,addresses}', '[]'), sources = '{}'")

    await rig.visit(parts, generation_id)

    after = await rig.books.generation(generation_id)
    assert after["asset_url"] == shown
    assert "repaired" not in await rig.books.events(generation_id)


async def test_an_address_that_the_application_takes_away_comes_back(rig: Rig, parts: Parts) -> None:
    generation_id = await shown_by_half(rig, parts)
    shown = (await rig.books.generation(generation_id))["asset_url"]
    await rig.books.change(generation_id, "asset_url = NULL")

    assert await parts.claims.discover() == 1

    await rig.visit(parts, generation_id)
    assert (await rig.books.generation(generation_id))["asset_url"] == shown
    assert await parts.claims.discover() == 0


async def test_a_sync_asks_for_the_missing_results_at_once(rig: Rig, parts: Parts) -> None:
    generation_id = await shown_by_half(rig, parts)
    task_id = (await rig.books.generation(generation_id))["task_id"]
    (lacking,) = await sync(operator(parts), task_id)
    assert (lacking.word, lacking.why) == ("delivered", "1 of 2 results are delivered; KIE has not given the others")

    await says(rig, generation_id, "file:0", "file:1")
    (whole,) = await sync(operator(parts), task_id)

    assert (whole.word, whole.why) == ("delivered", "")
    await rig.proves(generation_id)
