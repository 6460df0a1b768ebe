"""Slots that groups share: no group holds more than half of them while another group waits.

A group alone may hold all slots. Freed slots go round the waiting groups. A holder can be moved aside: it goes on, its
slot becomes free. That happens to the oldest holder of a group with more than half while another group waits, and to a
holder that is slow while anything waits. At most as many as there are slots are aside, half of them for slowness: else
the slow ones of a group would fill that place for the group's own next ones, and nothing were left for another group.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from reconciler.errors import Transient
from reconciler.worker.capacity.returns import Returns

PATIENCE = 2.0
"""Seconds for which a caller waits for a slot, and after which a group without a freed slot counts as stuck."""

REVIEW_SECONDS = 0.5
"""Seconds between two looks at the waiting groups, in which holders are moved aside for them."""

MOST_WAITING = 64
"""The most callers of one group that wait at once."""


class NoRoom(Transient):
    """The group found no slot in time; the row comes again after `retry_after` seconds."""


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


@dataclass(eq=False, slots=True)
class Slot:
    """A place of one group. `is_slow` tells whether its holder is slow, `on_aside` is called when it is moved aside."""

    group: str
    is_slow: Callable[[], bool]
    on_aside: Callable[[], None]
    aside: bool = False
    aside_as_slow: bool = False


@dataclass(eq=False, slots=True)
class _Waiter:
    slot: Slot
    granted: asyncio.Future[None]


class FairSlots:
    """`total` slots; a caller waits `patience` seconds for one, and no time where its group is stuck."""

    def __init__(
        self,
        total: int,
        *,
        patience: float = PATIENCE,
        review: float = REVIEW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.share = -(-total // 2)
        self._most_slow = max(1, total // 2)
        self._patience = patience
        self._review_seconds = review
        self._clock = clock
        self._held: dict[str, list[Slot]] = {}
        self._waiting: dict[str, deque[_Waiter]] = {}
        self._aside = 0
        self._slow_aside = 0
        self._surplus: Counter[str] = Counter()
        self._moved: dict[str, float] = {}
        self._moved_at = clock()
        self._review: asyncio.TimerHandle | None = None
        self._returns = Returns(patience)

    @property
    def free(self) -> int:
        """Return how many slots nobody holds."""
        return self.total - sum(map(len, self._held.values()))

    @property
    def aside(self) -> int:
        """Return how many go on beside the slots."""
        return self._aside

    @property
    def waiting(self) -> int:
        """Return how many callers wait for a slot."""
        return sum(map(len, self._waiting.values()))

    @property
    def room(self) -> int:
        """Return how many more callers are of use: for the free slots, and to wait as the next ones.

        Where no slot has become free for long, as many as there are slots: they may be of a group that gets one.
        """
        if self.free <= 0 and self._clock() - self._moved_at >= self._patience:
            return self.total
        return max(0, self.free + self.total - self.waiting)

    def held(self, group: str) -> int:
        """Return how many slots a group holds; what is aside does not count."""
        return len(self._held.get(group, ()))

    @asynccontextmanager
    async def hold(
        self,
        group: str,
        *,
        is_slow: Callable[[], bool] = _never,
        on_aside: Callable[[], None] = _nothing,
        patience: float | None = None,
    ) -> AsyncIterator[Slot]:
        """Hold a slot for this group; raise NoRoom where none comes in time.

        A caller with `patience` of its own waits so many seconds also where its group is stuck.
        """
        slot = Slot(group, is_slow, on_aside)
        await self._enter(slot, patience)
        try:
            yield slot
        finally:
            self._leave(slot)

    async def _enter(self, slot: Slot, patience: float | None) -> None:
        # While a slot is free nobody waits who may have it, so nobody is overtaken here.
        if self._fits(slot.group) and (self.free > 0 or (not self._waiting and self._move_slow_aside())):
            self._grant(slot)
            return
        waiting = len(self._waiting.get(slot.group, ()))
        if waiting >= MOST_WAITING or (patience is None and self._is_stuck(slot.group)):
            raise self._no_room(slot.group)
        waiter = _Waiter(slot, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(slot.group, deque()).append(waiter)
        self._plan_review()
        try:
            async with asyncio.timeout(self._patience if patience is None else patience):
                await waiter.granted
        except TimeoutError:
            if self._withdraw(waiter):
                raise self._no_room(slot.group) from None
        except asyncio.CancelledError:
            if not self._withdraw(waiter):
                self._leave(slot)
            raise

    def _withdraw(self, waiter: _Waiter) -> bool:
        """Take a waiter out of the queue; return False where it has been granted its slot."""
        if waiter.granted.done() and not waiter.granted.cancelled():
            return False
        group = waiter.slot.group
        waiters = self._waiting.get(group, deque())
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop(group, None)
        # The group that leaves may have kept another one from the slots beyond its half.
        self._grant_waiting()
        return True

    def _no_room(self, group: str) -> NoRoom:
        wait = self._returns.wait(group, self._clock())
        return NoRoom("no slot is free for it", code="no_room", retry_after=wait)

    def _is_stuck(self, group: str) -> bool:
        """Return whether a group has its share of the slots, and none of them became free for long."""
        has_share = self.held(group) >= self.share
        return has_share and self._clock() - self._moved.get(group, self._moved_at) >= self._patience

    def _grant(self, slot: Slot) -> None:
        self._held.setdefault(slot.group, []).append(slot)
        self._note_move(slot.group)

    def _leave(self, slot: Slot) -> None:
        if slot.aside:
            self._aside -= 1
            if not slot.aside_as_slow:
                self._surplus[slot.group] -= 1
                # Only groups that have some are kept.
                self._surplus = +self._surplus
                self._grant_waiting()
            self._slow_aside -= slot.aside_as_slow
            return
        self._remove(slot)
        self._note_move(slot.group)
        self._grant_waiting()

    def _remove(self, slot: Slot) -> None:
        held = self._held[slot.group]
        held.remove(slot)
        if not held:
            del self._held[slot.group]

    def _note_move(self, group: str) -> None:
        self._moved_at = self._moved[group] = self._clock()
        if group not in self._held:
            del self._moved[group]

    def _grant_waiting(self) -> None:
        """Give the free slots to the waiting groups in turn."""
        while self.free > 0 and (fitting := [group for group in self._waiting if self._fits(group)]):
            alone = len(fitting) == 1
            # Two groups with half each leave no slot free, so one of those that wait can have it.
            group = next(group for group in fitting if alone or self.held(group) < self.share)
            waiters = self._waiting.pop(group)
            waiter = waiters.popleft()
            if waiters:
                # At the end: the next slot goes to another group.
                self._waiting[group] = waiters
            if not waiter.granted.cancelled():
                self._grant(waiter.slot)
                waiter.granted.set_result(None)

    def _fits(self, group: str) -> bool:
        """Return whether a group may have a free slot: what was moved aside for others counts as held.

        Else it would fill each slot that it had to leave, until no more can be aside.
        """
        return self.held(group) + self._surplus[group] < self.total

    def _plan_review(self) -> None:
        if self._review is None and self._waiting:
            loop = asyncio.get_running_loop()
            self._review = loop.call_later(self._review_seconds, self._review_waiting)

    def _review_waiting(self) -> None:
        """Move holders aside for the groups that wait: of groups with more than half, then slow ones."""
        self._review = None
        for group in list(self._waiting):
            while group in self._waiting and (self._move_surplus_aside(group) or self._move_slow_aside()):
                self._grant_waiting()
        self._plan_review()

    def _move_surplus_aside(self, group: str) -> bool:
        """Move the oldest holder of a group with more than half aside, for a group with less; return whether."""
        largest = max(self._held.values(), key=len, default=[])
        if self.held(group) >= self.share or len(largest) <= self.share:
            return False
        oldest = largest[0]
        moved = self._move_aside(oldest)
        self._surplus[oldest.group] += moved
        return moved

    def _move_slow_aside(self) -> bool:
        """Move a slow holder aside, of the group with the most slots; return whether there was one."""
        if self._slow_aside >= self._most_slow:
            return False
        for held in sorted(self._held.values(), key=len, reverse=True):
            slow = next((slot for slot in held if slot.is_slow()), None)
            if slow is not None:
                slow.aside_as_slow = self._move_aside(slow)
                self._slow_aside += slow.aside_as_slow
                return slow.aside_as_slow
        return False

    def _move_aside(self, slot: Slot) -> bool:
        if self._aside >= self.total:
            return False
        self._remove(slot)
        if slot.group not in self._held:
            self._moved.pop(slot.group, None)
        slot.aside = True
        self._aside += 1
        slot.on_aside()
        return True
