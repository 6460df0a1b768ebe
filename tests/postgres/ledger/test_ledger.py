"""What the ledger keeps of a claimed generation: facts, receipts, the next visit, failures that were only announced."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.domain.failures.series import FailureSeries
from reconciler.domain.model import Fail, Result, Row
from reconciler.domain.results import from_addresses
from reconciler.errors import LeaseLost
from tests.postgres.books import THEIRS, Books, asset, proven, resting

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
FACTS = {
    "results": (
        Result("a1", 1, ("https://a.kie.ai/1", "https://a.kie.ai/2")),
        Result("#1", 0, text='{"words": "й"}', mime="application/json"),
        Result("#2", 2, current=False, confirmed=False),
    ),
    "stale": True,
    "key_hash": "0123456789abcdef",
    "family": "veo",
    "acknowledged_at": NOW,
    "answered_at": NOW + timedelta(seconds=1),
    "completed_at": NOW + timedelta(seconds=2),
    "duration": timedelta(seconds=3.5),
    "media_deadline": NOW + timedelta(days=1),
    "polled_at": NOW + timedelta(seconds=4),
    "polls": 5,
    "failures": 6,
    "unknowns": 7,
    "empties": 8,
    "failing_since": NOW - timedelta(seconds=5),
    "empty_since": NOW - timedelta(seconds=6),
    "empty_counted_at": NOW - timedelta(seconds=7),
    "missing_since": NOW - timedelta(seconds=8),
    "contradiction": "refused (501)",
    "reason": "fetch: gone",
    "finding": "host_unlisted",
    "gave_up": True,
    "reopened": True,
    "shown": 1,
    "failing": (
        FailureSeries("source", 3, NOW - timedelta(seconds=9), "fetch: gone"),
        FailureSeries("storage", 1, NOW - timedelta(seconds=10), "store: timeout"),
    ),
    "healed_at": (NOW - timedelta(hours=1), NOW),
}


async def read_again(books: Books, row: Row) -> Row:
    return (await books.ledger().read([row.id]))[row.id].row


async def test_the_applications_row_is_read_as_our_row(books: Books) -> None:
    user = "11111111-2222-4333-8444-555555555555"
    generation_id = await books.insert(age=100, user_id=user, kind="video", model_key="veo3", asset_url=THEIRS)
    row, _ = await books.held(generation_id)
    assert (row.id, row.user_id, row.task_id, row.status) == (generation_id, user, "task-1", "queued")
    assert (row.kind, row.model, row.asset_url) == ("video", "veo3", THEIRS)
    now = (await books.ledger().read([generation_id]))[generation_id].now
    assert 99 < (now - row.created_at).total_seconds() < 130
    assert {field.name: getattr(row, field.name) for field in fields(Row) if field.name in FACTS} == {
        name: type(value)() if isinstance(value, tuple | int) and name != "shown" else None
        for name, value in FACTS.items()
    }


async def test_every_noted_fact_is_read_back(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    noted = replace(row, **FACTS)  # type: ignore[arg-type]
    await books.ledger().note(noted, claim)
    assert await read_again(books, row) == noted


async def test_where_a_daemon_without_results_asked_since_the_addresses_are_asked_for_again(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    holes = (Result("a", 0, ("https://a.kie.ai/0",)), Result("b", 1), Result("json", 2, text="{}"))
    await books.ledger().note(replace(row, results=holes), claim)
    assert not (await read_again(books, row)).stale

    await books.set(row.id, "sources = ARRAY['https://a.kie.ai/9']")

    again = await read_again(books, row)
    assert (again.results, again.stale) == (holes, True)


async def test_results_of_a_task_that_a_daemon_without_results_replaced_do_not_count(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    words = (Result("json", 0, text='"of the first task"', mime="application/json"),)
    facts = {"results": words, "shown": 1, "contradiction": "of the first task", "empty_since": row.created_at}
    await books.ledger().note(replace(row, **facts), claim)  # type: ignore[arg-type]
    await books.change(row.id, "task_id = 'task-2'")

    await books.set(row.id, "seen_task = 'task-2', task_since = now(), sources = '{}'")

    again = await read_again(books, row)
    assert (again.results, again.shown, again.contradiction, again.empty_since) == ((), None, None, None)

    await books.set(row.id, "sources = ARRAY['https://a.kie.ai/2']")
    assert (await read_again(books, row)).results == from_addresses(("https://a.kie.ai/2",))


async def test_addresses_of_a_row_from_before_there_were_results_are_its_results(books: Books) -> None:
    row, _ = await books.held(await books.insert())
    await books.set(row.id, "seen_task = 'task-1', sources = ARRAY['https://a.kie.ai/1'], results = NULL")

    assert (await read_again(books, row)).results == from_addresses(("https://a.kie.ai/1",))


async def test_every_fact_of_a_row_has_a_column() -> None:
    application = {"id", "user_id", "task_id", "status", "kind", "model", "asset_url", "created_at", "offered"}
    assert {field.name for field in fields(Row)} == application | {
        "task_since",
        "assets",
        "create_refusal",
        "asset_is_result",
        "preview_url",
        "made_again",
        "another_task",
        "locked_write",
    } | FACTS.keys()


async def test_facts_about_another_task_are_dropped(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    row = await books.stored(replace(row, **FACTS), claim)  # type: ignore[arg-type]
    await books.change(row.id, "task_id = 'task-2'")
    fresh = await read_again(books, row)
    assert fresh.task_id == "task-2"
    assert (fresh.sources, fresh.assets, fresh.polls, fresh.acknowledged_at, fresh.gave_up) == ((), (), 0, None, False)


async def test_receipts_are_kept_one_by_one_and_in_order(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    ledger = books.ledger()
    row = replace(row, results=from_addresses((f"{THEIRS}?0", f"{THEIRS}?1")))
    await ledger.intend(row, claim, asset(1))
    await ledger.save_upload_name(row, claim, 1, "upload-7")
    await ledger.intend(row, claim, asset(0))
    await ledger.stored(row, claim, proven(0))
    stored = await read_again(books, row)
    assert stored.assets == (proven(0), asset(1, upload="upload-7"))
    assert not stored.delivered
    await ledger.stored(row, claim, proven(1))
    assert (await read_again(books, row)).delivered


async def test_an_upload_is_continued_only_for_the_same_bytes_at_the_same_path(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    ledger = books.ledger()
    await ledger.intend(row, claim, asset())
    await ledger.save_upload_name(row, claim, 0, "upload-7")
    await ledger.intend(row, claim, asset())
    assert (await read_again(books, row)).assets[0].upload == "upload-7"
    await ledger.intend(row, claim, asset(sha256="cc"))
    assert (await read_again(books, row)).assets == (asset(sha256="cc"),)


async def test_an_object_under_a_former_name_is_an_orphan(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.ledger().intend(row, claim, asset(path="u/image/g_0.png"))
    await books.ledger().intend(row, claim, asset(path="u/image/g_0.webp"))
    assert await books.pool.fetch("SELECT path FROM reconciler.orphans") == [("u/image/g_0.png",)]


async def test_a_deleted_generation_leaves_orphans_and_no_bookkeeping(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.stored(row, claim, sources=2)
    await books.pool.execute("DELETE FROM public.generations")
    assert await books.ledger().read([row.id]) == {}
    await books.ledger().forget(claim)
    orphans = [record["path"] for record in await books.pool.fetch("SELECT path FROM reconciler.orphans ORDER BY 1")]
    assert orphans == [asset(0).path, asset(1).path]
    assert await books.work(row.id) is None
    assert await books.pool.fetchval("SELECT count(*) FROM reconciler.assets") == 0


async def test_generating_is_written_once(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    await books.ledger().rest(row, claim, resting(begun=True))
    written = await books.generation(row.id)
    assert written["status"] == "generating"
    row, claim = await books.held(row.id)
    await books.ledger().rest(row, claim, resting(begun=True))
    assert await books.generation(row.id) == written


@pytest.mark.parametrize("change", ["status = 'cancelled'", "task_id = 'task-2'"])
async def test_generating_is_not_written_into_a_row_that_moved(books: Books, change: str) -> None:
    row, claim = await books.held(await books.insert())
    await books.change(row.id, change)
    before = await books.generation(row.id)
    await books.ledger().rest(row, claim, resting(begun=True))
    assert await books.generation(row.id) == before
    assert await books.claims().discover() == (change == "task_id = 'task-2'")


async def test_a_rest_writes_time_and_reason_and_ends_the_lease(books: Books) -> None:
    row, claim = await books.held(await books.insert())
    rest = replace(resting(600), reason="KIE: rate_limited", finding="unpaid_account")
    await books.ledger().rest(replace(row, failures=3), claim, rest)
    work = await books.work(row.id)
    assert work is not None
    assert (work["lease"], work["due_at"], work["early_at"]) == (None, rest.due_at, rest.earliest)
    assert (work["why"], work["finding"], work["misses"]) == ("KIE: rate_limited", "unpaid_account", 3)


async def test_a_failure_that_is_handed_over_is_announced_and_not_written(books: Books) -> None:
    row, claim = await books.held(await books.insert(status="generating"))
    before = await books.generation(row.id)
    assert await books.ledger(handover=True).fail(row, claim, Fail("refused")) == "failed"
    assert await books.generation(row.id) == before
    assert await books.events(row.id) == ["failed"]
    assert await books.claims().discover() == 0
    assert await books.claims().due(1) == []


async def test_a_failure_that_is_handed_over_is_announced_once(books: Books) -> None:
    ledger = books.ledger(handover=True)
    generation_id = await books.insert(status="generating")
    for _ in range(3):
        row, claim = await books.held(generation_id)
        assert await ledger.fail(row, claim, Fail("gave up", recheck_at=datetime.now(UTC))) == "gave_up"
    assert await books.events(generation_id) == ["gave_up"]
    with pytest.raises(LeaseLost):
        await ledger.fail(row, claim, Fail("gave up", recheck_at=datetime.now(UTC)))
