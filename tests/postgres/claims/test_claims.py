"""Which instance may write which generation: wakes, due rows, leases, and rows that are never ours."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from reconciler.domain.model import Trigger
from tests.postgres.books import ELIGIBLE, OURS, THEIRS, Books, resting


async def rested(books: Books, *, begun: bool = False, **columns: object) -> str:
    """A generation that was visited once and rests for a minute."""
    generation_id = await books.insert(**columns)
    row, claim = await books.held(generation_id)
    await books.ledger().rest(row, claim, resting(begun=begun))
    return generation_id


async def test_a_wake_of_a_new_generation_makes_its_bookkeeping_and_claims_it(books: Books) -> None:
    generation_id = await books.insert()
    (claim,) = await books.claims(term=30).woken({generation_id: Trigger.NOTIFY})
    assert (claim.generation_id, claim.woken, claim.trigger) == (generation_id, 0, Trigger.NOTIFY)
    work = await books.work(generation_id)
    assert work is not None
    assert (work["lease"], work["seen_status"], work["seen_task"]) == (claim.lease, "queued", "task-1")
    assert 25 < work["left"] <= 30


async def test_many_wakes_are_claimed_together(books: Books) -> None:
    ids = [await books.insert() for _ in range(5)]
    claims = await books.claims().woken(dict.fromkeys(ids, Trigger.NOTIFY))
    assert {claim.generation_id for claim in claims} == set(ids)
    assert len({claim.lease for claim in claims}) == 5


async def test_the_notification_of_our_own_write_claims_nothing(books: Books) -> None:
    generation_id = await rested(books, begun=True)
    assert (await books.generation(generation_id))["status"] == "generating"
    assert await books.claims().woken({generation_id: Trigger.NOTIFY}) == []
    work = await books.work(generation_id)
    assert work is not None
    assert work["due_in"] > 50
    assert work["woken"] == 0


@pytest.mark.parametrize("trigger", [Trigger.CALLBACK, Trigger.SYNC, Trigger.BACKFILL])
async def test_a_requested_row_is_claimed_before_it_is_due(books: Books, trigger: Trigger) -> None:
    generation_id = await rested(books)
    (claim,) = await books.claims().woken({generation_id: trigger})
    assert claim.trigger is trigger


@pytest.mark.parametrize("change", ["status = 'generating'", "task_id = 'task-2'"])
async def test_a_row_that_the_application_changed_is_claimed_before_it_is_due(books: Books, change: str) -> None:
    generation_id = await rested(books)
    await books.change(generation_id, change)
    assert len(await books.claims().woken({generation_id: Trigger.NOTIFY})) == 1


async def test_a_wake_of_a_held_row_is_kept_and_makes_it_due_when_the_holder_releases_it(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    assert await books.claims().woken({generation_id: Trigger.CALLBACK}) == []
    work = await books.work(generation_id)
    assert work is not None
    assert (work["woken"], work["lease"]) == (1, claim.lease)

    await books.ledger().rest(row, claim, resting(600))
    (again,) = await books.claims().due(10)
    assert (again.generation_id, again.woken, again.trigger) == (generation_id, 1, Trigger.CALLBACK)


async def test_two_seconds_pass_between_two_polls_however_often_the_row_is_woken(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await books.claims().woken({generation_id: Trigger.CALLBACK})
    looked_at = (await books.ledger().read([generation_id]))[generation_id].now
    await books.ledger().rest(replace(row, polled_at=looked_at, polls=1), claim, resting(600))
    work = await books.work(generation_id)
    assert work is not None
    assert 1 < work["due_in"] <= 2


async def test_a_change_by_the_application_during_a_visit_is_a_wake(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await books.change(generation_id, "status = 'generating'")
    assert await books.claims().woken({generation_id: Trigger.NOTIFY}) == []
    await books.ledger().rest(row, claim, resting(600))
    assert len(await books.claims().due(10)) == 1


async def test_a_row_claimed_by_its_due_time_is_a_poll_although_it_was_woken_before(books: Books) -> None:
    generation_id = await books.insert()
    claim = await books.claim(generation_id, trigger=Trigger.CALLBACK)
    row = (await books.ledger().read([generation_id]))[generation_id].row
    await books.ledger().rest(row, claim, resting(-1))
    (again,) = await books.claims().due(1)
    assert again.trigger is Trigger.POLL


async def test_the_longest_overdue_row_comes_first_and_the_limit_holds(books: Books) -> None:
    ids = [await rested(books) for _ in range(3)]
    for generation_id, seconds in zip(ids, (20, 50, 500), strict=True):
        await books.set(generation_id, f"due_at = now() - {seconds} * interval '1 second'")
    claims = await books.claims().due(2)
    assert {claim.generation_id for claim in claims} == {ids[1], ids[2]}


async def test_a_row_is_not_due_before_its_time_and_early_only_from_its_early_time_on(books: Books) -> None:
    generation_id = await rested(books)
    instance = books.claims()
    assert await instance.due(10) == []
    assert await instance.early(10) == []
    await books.set(generation_id, "early_at = now()")
    assert await instance.due(10) == []
    assert [claim.generation_id for claim in await instance.early(10)] == [generation_id]


async def test_a_row_that_was_left_is_neither_due_nor_early(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    await books.ledger().leave(row, claim, "nothing more to do")
    instance = books.claims()
    assert (await instance.due(10), await instance.early(10), await instance.next_due()) == ([], [], None)


async def test_the_next_due_time_is_that_of_the_earliest_waiting_row(books: Books) -> None:
    assert await books.claims().next_due() is None
    for seconds in (40, 20):
        await books.set(await rested(books), f"due_at = now() + {seconds} * interval '1 second'")
    soonest = await books.claims().next_due()
    assert soonest is not None
    assert 18 < soonest <= 20


async def test_the_end_of_a_lease_counts_as_a_due_time(books: Books) -> None:
    generation_id = await rested(books)
    instance = books.claims()
    await books.set(generation_id, "due_at = now(), lease_until = now() + interval '10 seconds'")
    soonest = await instance.next_due()
    assert soonest is not None
    assert 8 < soonest <= 10
    await books.set(await rested(books), "due_at = now() + interval '5 seconds'")
    soonest = await instance.next_due()
    assert soonest is not None
    assert 3 < soonest <= 5


async def test_two_instances_never_claim_the_same_row(books: Books) -> None:
    for _ in range(40):
        await books.set(await rested(books), "due_at = now()")
    instances = [books.claims() for _ in range(4)]
    taken = await asyncio.gather(*(instance.due(15) for instance in instances))
    ids = [claim.generation_id for claims in taken for claim in claims]
    assert len(ids) == len(set(ids)) == 40


async def test_a_locked_row_is_passed_over_and_not_waited_for(books: Books) -> None:
    locked, free = await rested(books), await rested(books)
    await books.pool.execute("UPDATE reconciler.work SET due_at = now()")
    async with books.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM reconciler.work WHERE generation_id = $1 FOR UPDATE", locked)
        async with asyncio.timeout(5):
            claims = await books.claims().due(10)
    assert [claim.generation_id for claim in claims] == [free]


@pytest.mark.parametrize(
    ("until", "free"),
    [("- interval '1 second'", True), ("+ interval '5 seconds'", False), ("+ interval '61 seconds'", True)],
    ids=["expired", "running", "drawn by a clock that jumped"],
)
async def test_a_lease_holds_until_it_ends_and_never_for_more_than_two_terms(
    books: Books, until: str, free: bool
) -> None:
    generation_id = await books.insert()
    before = await books.claim(generation_id, term=30)
    await books.set(generation_id, f"lease_until = now() {until}, due_at = now()")
    assert len(await books.claims(term=30).due(1)) == free
    await books.set(generation_id, f"lease = '{before.lease}', lease_until = now() {until}, due_at = now()")
    assert len(await books.claims(term=30).woken({generation_id: Trigger.SYNC})) == free


async def test_a_renewal_prolongs_and_returns_the_leases_that_are_still_ours(books: Books) -> None:
    ids = [await books.insert() for _ in range(2)]
    instance = books.claims(term=30)
    kept, lost = sorted(
        await instance.woken(dict.fromkeys(ids, Trigger.NOTIFY)), key=lambda claim: ids[0] != claim.generation_id
    )
    await books.pool.execute("UPDATE reconciler.work SET lease_until = now() + interval '1 second'")
    await books.taken_over(lost.generation_id)
    assert await instance.renew([kept, lost]) == {kept.lease}
    work = await books.work(kept.generation_id)
    assert work is not None
    assert work["left"] > 25


async def test_a_released_row_is_due_again_soon_and_a_lost_one_stays_untouched(books: Books) -> None:
    ids = [await books.insert() for _ in range(2)]
    instance = books.claims()
    ours, lost = [await books.claim(generation_id) for generation_id in ids]
    await books.taken_over(lost.generation_id)
    before = await books.work(lost.generation_id)
    await instance.release([ours, lost], seconds=5)
    work, after = await books.work(ids[0]), await books.work(ids[1])
    assert work is not None
    assert before is not None
    assert after is not None
    assert work["lease"] is None
    assert 4 < work["due_in"] <= 5
    assert (after["lease"], after["due_at"]) == (before["lease"], before["due_at"])


THEIR_ROWS = [
    {"provider": "replicate"},
    {"task_id": "not one of ours"},
    {"status": "cancelled"},
    {"status": "failed"},
    {"status": "success", "asset_url": OURS},
]
OUR_ROWS = [
    {"status": "generating"},
    {"task_id": None},
    {"status": "success", "asset_url": None},
]


@pytest.mark.parametrize("columns", THEIR_ROWS, ids=str)
async def test_a_row_that_is_not_ours_is_neither_claimed_nor_found(books: Books, columns: dict[str, object]) -> None:
    instance = books.claims(eligible=replace(ELIGIBLE, task_pattern="^task-"))
    generation_id = await books.insert(**columns)
    assert await instance.woken({generation_id: Trigger.SYNC}) == []
    assert await instance.discover() == 0
    assert await books.work(generation_id) is None


async def test_a_row_with_an_unknown_status_is_left_alone(books: Books) -> None:
    await books.pool.execute("ALTER TABLE public.generations DROP CONSTRAINT generations_status_check")
    generation_id = await books.insert(status="archived")
    assert await books.claims().woken({generation_id: Trigger.SYNC}) == []
    assert await books.claims().discover() == 0


@pytest.mark.parametrize("columns", OUR_ROWS, ids=str)
async def test_a_row_in_flight_or_without_its_asset_is_claimed_and_found(
    books: Books, columns: dict[str, object]
) -> None:
    found, woken = await books.insert(**columns), await books.insert(**columns)
    assert len(await books.claims().woken({woken: Trigger.NOTIFY})) == 1
    assert await books.claims().discover() == 1
    assert await books.work(found) is not None


@pytest.mark.parametrize(
    ("address", "theirs"),
    [
        (THEIRS, True),
        ("http://kie.ai:8443/x.png", True),
        ("https://kie.ai.example.com/x.png", False),
        ("https://example.com/?from=kie.ai/", False),
        (OURS, False),
    ],
)
async def test_a_success_with_the_providers_address_is_claimed_to_heal_it(
    books: Books, address: str, theirs: bool
) -> None:
    generation_id = await books.insert(status="success", asset_url=address)
    assert len(await books.claims().woken({generation_id: Trigger.NOTIFY})) == theirs


@pytest.mark.parametrize("mark", ["gave_up", "reopened"])
async def test_a_failure_that_we_concluded_and_a_reopened_one_are_claimed_again(books: Books, mark: str) -> None:
    generation_id = await rested(books)
    await books.change(generation_id, "status = 'failed'")
    await books.set(generation_id, f"{mark} = true")
    assert len(await books.claims().woken({generation_id: Trigger.SYNC})) == 1


@pytest.mark.parametrize("name", ["no id at all", "", "\x00", "\ud800", "' OR true --", "9" * 200])
async def test_a_wake_with_an_impossible_id_harms_no_other_wake(books: Books, name: str) -> None:
    generation_id = await books.insert()
    claims = await books.claims().woken({name: Trigger.NOTIFY, generation_id: Trigger.NOTIFY})
    assert [claim.generation_id for claim in claims] == [generation_id]
