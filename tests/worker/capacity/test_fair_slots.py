"""The slots that groups share: all for one alone, at most half beside another one, and none is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.worker.capacity.fair_slots import FairSlots, NoRoom
from testkit.waiting import until

LONG = 60.0


class Holder:
    """A task that waits for a slot of its group and holds it until it is released or cancelled."""

    def __init__(self, slots: FairSlots, group: str, *, slow: bool = False, patience: float | None = None) -> None:
        self.group = group
        self.slow = slow
        self.holds = False
        self.was_moved = 0
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run(slots, patience))

    async def _run(self, slots: FairSlots, patience: float | None) -> None:
        async with slots.hold(self.group, is_slow=lambda: self.slow, on_aside=self._moved, patience=patience) as slot:
            self.slot = slot
            self.holds = True
            await self._end.wait()
        self.holds = False

    def _moved(self) -> None:
        self.was_moved += 1

    async def release(self) -> None:
        self._end.set()
        await asyncio.gather(self.task, return_exceptions=True)


async def next_turn() -> None:
    """Let every task that is ready run once."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn


async def settle(holders: list[Holder]) -> None:
    """Let every task run until it waits."""
    for _ in range(5 + 2 * len(holders)):
        await next_turn()


async def held(slots: FairSlots, *groups: str, slow: bool = False) -> list[Holder]:
    holders = [Holder(slots, group, slow=slow) for group in groups]
    await settle(holders)
    return holders


async def end(*holders: Holder) -> None:
    for holder in holders:
        await holder.release()


async def test_a_group_alone_holds_all_slots() -> None:
    slots = FairSlots(8)
    holders = await held(slots, *["a"] * 8)
    assert (slots.held("a"), slots.free) == (8, 0)
    await end(*holders)
    assert slots.free == 8


async def test_a_freed_slot_goes_to_the_group_that_waits() -> None:
    slots = FairSlots(4, patience=LONG, review=LONG)
    running = await held(slots, *["a"] * 4)
    waiting = await held(slots, "a", "a", "b", "b", "b")
    await end(running[0], running[1])
    assert (slots.held("a"), slots.held("b")) == (2, 2)
    await end(running[2])
    assert (slots.held("a"), slots.held("b")) == (2, 2)
    await end(*running, *waiting)


async def test_freed_slots_go_round_the_waiting_groups() -> None:
    slots = FairSlots(2, patience=LONG, review=LONG)
    granted = await held(slots, "a", "a")
    waiting = await held(slots, *"bbbcccddd")
    for n in range(9):
        await end(granted[n])
        await settle(waiting)
        granted += [holder for holder in waiting if holder.holds and holder not in granted]
    assert [holder.group for holder in granted] == [*"aabcdbcdbcd"]
    await end(*granted)


async def test_a_waiting_group_gets_half_although_no_slot_is_freed() -> None:
    slots = FairSlots(8, patience=LONG, review=0.01)
    silent = await held(slots, *["silent"] * 8)
    good = await held(slots, *["good"] * 6)
    await until(lambda: slots.held("good") == 4, what="half of the slots")
    assert (slots.held("silent"), slots.aside) == (4, 4)
    assert [holder.was_moved for holder in silent] == [1] * 4 + [0] * 4
    await end(*silent, *good)
    assert (slots.free, slots.aside, slots.waiting) == (8, 0, 0)


async def test_a_group_that_had_to_leave_slots_fills_no_others_until_those_holders_end() -> None:
    slots = FairSlots(4, patience=LONG, review=0.01)
    silent = await held(slots, *["silent"] * 4)
    more = await held(slots, *["silent"] * 4)
    for _ in range(6):
        (good,) = await held(slots, "good")
        await until(lambda holder=good: holder.holds, what="a slot for the good one")
        await end(good)
    assert (slots.held("silent"), slots.aside, slots.free) == (3, 1, 1)
    await end(silent[0])
    assert (slots.held("silent"), slots.aside, slots.free) == (4, 0, 0)
    await end(*silent, *more)
    assert (slots.free, slots.aside, slots.waiting) == (4, 0, 0)


@pytest.mark.parametrize(("total", "most"), [(1, 1), (2, 1), (4, 2), (8, 4)])
async def test_slow_holders_make_way_for_their_own_group(total: int, most: int) -> None:
    slots = FairSlots(total, patience=LONG, review=0.01)
    slow = await held(slots, *["a"] * total, slow=True)
    good = await held(slots, *["a"] * most)
    await until(lambda: all(holder.holds for holder in good), what="slots for the good ones")
    assert all(holder.holds for holder in slow)
    assert slots.aside == most
    await end(*slow, *good)


async def test_slow_holders_leave_room_aside_for_another_group() -> None:
    slots = FairSlots(4, patience=LONG, review=0.01)
    slow = await held(slots, *["a"] * 8, slow=True)
    await until(lambda: slots.aside == 2, what="two aside")
    good = await held(slots, "b", "b")
    await until(lambda: all(holder.holds for holder in good), what="half of the slots")
    assert (slots.aside, slots.held("a")) == (4, 2)
    await end(*slow, *good)


async def test_no_more_are_aside_than_there_are_slots() -> None:
    slots = FairSlots(2, patience=LONG, review=0.01)
    holders = await held(slots, *"aaaa", slow=True)
    await until(lambda: slots.aside == 1, what="one aside")
    holders += await held(slots, "b")
    await until(lambda: slots.aside == 2, what="two aside")
    holders += await held(slots, "c")
    await settle(holders)
    assert (slots.held("c"), sum(holder.holds for holder in holders)) == (0, 4)
    await end(*holders)


async def test_nothing_is_moved_while_nothing_waits() -> None:
    slots = FairSlots(2, review=0.01)
    holders = await held(slots, "a", "a", slow=True)
    assert slots.aside == 0
    await end(*holders)


async def test_a_caller_that_finds_no_slot_in_time_is_sent_back_and_told_when_to_come() -> None:
    slots = FairSlots(2, patience=0.01, review=LONG)
    running = await held(slots, "a", "a")
    with pytest.raises(NoRoom) as caught:
        async with slots.hold("a"):
            pass
    assert (caught.value.code, caught.value.retry_after) == ("no_room", pytest.approx(0.01))
    assert slots.waiting == 0
    await end(*running)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_group_whose_slots_are_stuck_sends_back_at_once_and_lets_others_wait() -> None:
    clock = Time()
    slots = FairSlots(4, patience=LONG, review=LONG, clock=clock)
    stuck = await held(slots, *["a"] * 4)
    clock.now += LONG
    with pytest.raises(NoRoom):
        async with slots.hold("a"):
            pass
    (other,) = await held(slots, "b")
    assert slots.waiting == 1
    await end(stuck[0])
    await settle([other])
    assert other.holds
    await end(*stuck, other)


async def test_a_caller_with_patience_waits_where_its_group_is_stuck() -> None:
    clock = Time()
    slots = FairSlots(2, patience=1.0, review=LONG, clock=clock)
    stuck = await held(slots, "a", "a")
    clock.now += 1
    person = Holder(slots, "a", patience=LONG)
    await settle([person])
    await end(stuck[0])
    await settle([person])
    assert person.holds
    await end(*stuck, person)


async def test_there_is_room_for_the_free_slots_and_as_many_next_ones() -> None:
    clock = Time()
    slots = FairSlots(2, patience=LONG, review=LONG, clock=clock)
    rooms = [slots.room]
    holders = []
    for _ in range(4):
        holders += await held(slots, "a")
        rooms.append(slots.room)
    assert rooms == [4, 3, 2, 1, 0]
    clock.now += LONG
    assert slots.room == 2
    await end(*holders)


@pytest.mark.parametrize("granted_before", [False, True])
async def test_a_cancelled_caller_loses_no_slot(granted_before: bool) -> None:
    slots = FairSlots(1, patience=LONG, review=LONG)
    (running,) = await held(slots, "a")
    waiting = await held(slots, "b", "c")
    if granted_before:
        # The slot is granted and the caller cancelled before it has run again.
        running._end.set()
        await until(lambda: slots.held("b") == 1, what="the grant")
    waiting[0].task.cancel()
    await asyncio.gather(waiting[0].task, return_exceptions=True)
    await end(running)
    await settle(waiting)
    assert waiting[1].holds
    await end(waiting[1])
    assert (slots.free, slots.waiting) == (1, 0)


class SharedSlots(RuleBasedStateMachine):
    """Groups that come, go, are cancelled and get slow, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.slots = self.do(self._slots)
        self.holders: list[Holder] = []

    def do(self, what: Callable[[], object]) -> FairSlots:
        async def run() -> FairSlots:
            made = what()
            if asyncio.iscoroutine(made):
                made = await made
            await settle(getattr(self, "holders", []))
            return made  # type: ignore[return-value]

        return self.loop.run_until_complete(run())

    def _slots(self) -> FairSlots:
        return FairSlots(5, patience=LONG, review=LONG, clock=lambda: 0.0)

    @rule(group=st.sampled_from("abc"), slow=st.booleans())
    def come(self, group: str, slow: bool) -> None:
        self.do(lambda: self.holders.append(Holder(self.slots, group, slow=slow)))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), cancelled=st.booleans())
    def go(self, data: st.DataObject, cancelled: bool) -> None:
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        if cancelled:
            holder.task.cancel()
            self.do(lambda: None)
        else:
            holder._end.set()
            self.do(lambda: None)
            holder.task.cancel()
            self.do(lambda: None)
        assert holder.task.done()

    @precondition(lambda self: len(self.holders) >= 2)
    @rule(data=st.data())
    def one_goes_as_another_is_cancelled(self, data: st.DataObject) -> None:
        """The slot of the first may have been granted to the second when that one is cancelled."""
        first = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        second = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))

        async def both() -> None:
            first._end.set()
            for _ in range(data.draw(st.integers(0, 3))):
                await next_turn()
            second.task.cancel()

        self.do(both)
        first.task.cancel()
        self.do(lambda: None)

    @rule()
    def review(self) -> None:
        before = self.slots.aside
        self.do(self.slots._review_waiting)
        # While there is room aside, nobody holds more than half while a group with less waits.
        if self.slots.aside < self.slots.total:
            for group in self.slots._waiting:
                if self.slots.held(group) < self.slots.share:
                    assert all(self.slots.held(other) <= self.slots.share for other in "abc"), before

    @invariant()
    def every_slot_is_held_or_free_and_nobody_who_may_have_it_waits_beside_a_free_one(self) -> None:
        slots = self.slots
        holding = [holder for holder in self.holders if holder.holds]
        aside = [holder for holder in holding if holder.slot.aside]
        assert len(holding) - len(aside) + slots.free == slots.total
        assert slots.aside == len(aside) <= slots.total
        assert slots.waiting == len(self.holders) - len(holding)
        assert slots.free == 0 or not any(slots._fits(group) for group in slots._waiting)

    def teardown(self) -> None:
        for holder in self.holders:
            holder.task.cancel()
        self.holders = []
        self.do(lambda: None)
        assert (self.slots.free, self.slots.aside, self.slots.waiting) == (5, 0, 0)
        if self.slots._review is not None:
            self.slots._review.cancel()
        self.loop.close()


TestSharedSlots = SharedSlots.TestCase


@given(st.integers(1, 9), st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_a_slot_is_granted_beyond_half_only_while_no_other_group_waits(total: int, groups: list[str]) -> None:
    async def run() -> None:
        slots = FairSlots(total, patience=LONG, review=LONG)
        holders = await held(slots, *groups)
        served = 0
        while any(not holder.task.done() for holder in holders):
            before = {group: slots.held(group) for group in "abcd"}
            waited = set(slots._waiting)
            await end(next(holder for holder in holders if holder.holds))
            await settle(holders)
            served += 1
            for group in "abcd":
                if slots.held(group) > before[group]:
                    assert slots.held(group) <= slots.share or waited == {group}
        assert served == len(groups)

    asyncio.run(run())
