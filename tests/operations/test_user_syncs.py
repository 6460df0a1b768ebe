"""What the syncs of one user may cost: two at once, few visits, a pause for each row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from reconciler.operations import user_syncs as module
from reconciler.operations.operator import TaskState
from reconciler.operations.single_flight import SingleFlight
from reconciler.operations.user_syncs import AT_ONCE, PAUSE, REFILL, VISITS, WAITING, TooManySyncs, UserSyncs
from testkit.waiting import until

ANN, BOB = "ann", "bob"


class Visits:
    """An operator whose visits end when they are told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends = asyncio.Event()
        self.error: Exception | None = None

    async def visit(self, generation_id: str, _: object) -> TaskState:
        self.begun.append(generation_id)
        await self.ends.wait()
        if self.error is not None:
            raise self.error
        return TaskState(None)


class Kit:
    """One process with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.visits = Visits()
        self.flight = SingleFlight(self.visits)  # type: ignore[arg-type]
        self.syncs = UserSyncs(lambda: self.now)

    def visit(self, row: str, user: str = ANN) -> asyncio.Task[TaskState] | None:
        return self.syncs.visit(user, row, self.flight, lambda: None)

    async def visited(self, row: str, user: str = ANN) -> bool:
        """Sync a row and let its visit end; return whether there was one."""
        self.visits.ends.set()
        task = self.visit(row, user)
        if task is not None:
            await asyncio.wait([task])
        return task is not None


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    made = Kit()
    yield made
    made.visits.ends.set()
    await asyncio.gather(*made.flight._visits.values(), return_exceptions=True)


async def test_a_user_has_two_visits_under_way_and_another_user_has_two_more(kit: Kit) -> None:
    assert [kit.visit(f"row-{n}") is not None for n in range(4)] == [True] * AT_ONCE + [False] * 2
    assert kit.visit("row-9", BOB) is not None
    kit.visits.ends.set()
    await until(lambda: kit.flight.under_way("row-0") is None, what="the visits end")
    assert kit.visit("row-3") is not None


async def test_a_visit_that_is_under_way_is_joined_and_costs_nothing(kit: Kit) -> None:
    theirs = kit.flight.visit("row", lambda: None)
    assert [kit.visit("row") is theirs for _ in range(2 * VISITS)] == [True] * 2 * VISITS
    assert kit.visit("another") is not None


async def test_a_row_is_visited_again_only_after_the_pause(kit: Kit) -> None:
    """N9: the loop of one client."""
    assert await kit.visited("row")
    kit.now += PAUSE - 0.1
    for _ in range(100):
        assert await kit.visited("row"), "it is answered by the visit before"
    assert kit.visits.begun == ["row"]
    kit.now += 0.1
    await kit.visited("row")
    assert kit.visits.begun == ["row", "row"]


async def test_a_visit_that_broke_does_not_answer_for_the_next_ones(kit: Kit) -> None:
    kit.visits.error = RuntimeError("the database is away")
    assert await kit.visited("row")
    kit.visits.error = None
    assert await kit.visited("row")
    assert kit.visits.begun == ["row", "row"]


async def test_a_user_who_syncs_many_rows_in_a_loop_causes_one_visit_in_ten_seconds(kit: Kit) -> None:
    """N9: 40 rows, each synced all the time for ten minutes."""
    rows, minutes = [f"row-{n}" for n in range(40)], 10
    for _ in range(60 * minutes):
        for row in rows:
            await kit.visited(row)
        kit.now += 1
    assert len(kit.visits.begun) <= VISITS + 60 * minutes / REFILL
    assert await kit.visited("row", BOB), "another user is not concerned"


async def test_visits_that_were_not_used_do_not_add_up(kit: Kit) -> None:
    kit.now += 1_000_000
    assert [await kit.visited(f"row-{n}") for n in range(VISITS + 1)] == [True] * VISITS + [False]


async def test_a_user_has_two_turns_and_the_others_wait(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0)
    async with AsyncExitStack() as stack:
        turns = [await stack.enter_async_context(kit.syncs.turn(ANN, 5)) for _ in range(AT_ONCE)]
        assert turns == [True] * AT_ONCE
        assert await stack.enter_async_context(kit.syncs.turn(ANN, 0)) is False
        assert await stack.enter_async_context(kit.syncs.turn(BOB, 0)) is True
    async with kit.syncs.turn(ANN, 5) as turn:
        assert turn


async def test_a_turn_is_not_given_on_before_its_least_time(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop of syncs that each end at once."""
    monkeypatch.setattr(module, "TURN_SECONDS", 3600)
    for _ in range(AT_ONCE):
        async with kit.syncs.turn(ANN, 5) as turn:
            assert turn
    async with kit.syncs.turn(ANN, 0) as turn:
        assert not turn


async def test_so_many_wait_and_no_more(kit: Kit) -> None:
    ended = asyncio.Event()

    async def one() -> None:
        async with kit.syncs.turn(ANN, 60):
            await ended.wait()

    tasks = [asyncio.create_task(one()) for _ in range(AT_ONCE + WAITING)]
    await until(lambda: ANN in kit.syncs._users, what="the first is inside")
    await until(lambda: kit.syncs._users[ANN].inside == AT_ONCE + WAITING, what="all are inside")
    with pytest.raises(TooManySyncs):
        async with kit.syncs.turn(ANN, 60):
            pass
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert kit.syncs._users[ANN].inside == 0


async def test_users_who_are_idle_are_forgotten_and_the_others_are_not(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE", 10)
    await kit.visited("row", BOB)
    for n in range(30):
        async with kit.syncs.turn(f"user-{n}", 1):
            pass
    assert len(kit.syncs._users) <= 11
    assert BOB in kit.syncs._users
    kept: Any = kit.syncs._users[BOB]
    kit.now += REFILL
    assert kept.idle(kit.now)
