"""What the syncs of one end user may cost, so that a user who syncs in a loop slows nobody else.

A user has two turns and two visits at once, a few visits at any time and then one every ten seconds, and one visit of a
row in five seconds. Beyond that a sync answers what is known: the daemon follows the row all the same. The route of
`sync` calls it for end users; the operator is not limited. Each process counts for itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from reconciler.operations.operator import TaskState
from reconciler.operations.single_flight import SingleFlight

AT_ONCE = 2
"""The most syncs of one user that are being answered, and the most visits of one user that are under way."""

WAITING = 64
"""The most syncs of one user that wait for their turn."""

TURN_SECONDS = 0.25
"""The least seconds of a turn: a loop of syncs is answered eight times a second, however many clients run it."""

PAUSE = 5.0
"""Seconds after a visit in which a sync of the same row begins no other."""

VISITS = 6
"""The visits that a user may cause at any time; one more every REFILL seconds."""

REFILL = 10.0

_IDLE = 1_000
"""From so many users on those who have nothing under way are forgotten."""


class TooManySyncs(Exception):
    """So many syncs of this user wait that no other may."""


@dataclass(eq=False, slots=True)
class _User:
    """What one user has under way; `visits` were left at the time `counted`."""

    counted: float
    visits: float = VISITS
    inside: int = 0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    under_way: set[asyncio.Task[TaskState]] = field(default_factory=set)

    def take_visit(self, now: float) -> bool:
        """Take one visit; False where none is left."""
        self.visits = min(self.visits + (now - self.counted) / REFILL, VISITS)
        self.counted = now
        if self.visits < 1 or len(self.under_way) >= AT_ONCE:
            return False
        self.visits -= 1
        return True

    def idle(self, now: float) -> bool:
        """Return whether nothing would be lost by forgetting this user."""
        return not self.inside and not self.under_way and self.visits + (now - self.counted) / REFILL >= VISITS


class UserSyncs:
    """The syncs of all end users of this process; `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._users: dict[str, _User] = {}
        self._ended: dict[str, tuple[float, asyncio.Task[TaskState]]] = {}

    @asynccontextmanager
    async def turn(self, user_id: str, seconds: float) -> AsyncIterator[bool]:
        """Yield whether this user got a turn within so many seconds; raise TooManySyncs where too many wait."""
        user = self._user(user_id)
        if user.inside >= AT_ONCE + WAITING:
            raise TooManySyncs
        user.inside += 1
        began: float | None = None
        loop = asyncio.get_running_loop()
        try:
            try:
                async with asyncio.timeout(seconds):
                    await user.turns.acquire()
                began = loop.time()
            except TimeoutError:
                pass
            yield began is not None
        finally:
            user.inside -= 1
            if began is not None:
                loop.call_at(began + TURN_SECONDS, user.turns.release)

    def visit(
        self, user_id: str, generation_id: str, single_flight: SingleFlight, enter: Callable[[], object]
    ) -> asyncio.Task[TaskState] | None:
        """Return the visit of this row that is under way, has just ended or begins now; None where none may begin."""
        now = self._clock()
        self._forget_ended(now)
        if (task := single_flight.under_way(generation_id)) is not None:
            return task
        if generation_id in self._ended:
            return self._ended[generation_id][1]
        user = self._user(user_id)
        if not user.take_visit(now):
            return None
        task = single_flight.visit(generation_id, enter)
        user.under_way.add(task)

        def ended(task: asyncio.Task[TaskState]) -> None:
            user.under_way.discard(task)
            if not task.cancelled() and task.exception() is None:
                self._ended[generation_id] = (self._clock(), task)

        task.add_done_callback(ended)
        return task

    def _user(self, user_id: str) -> _User:
        now = self._clock()
        if len(self._users) >= _IDLE and user_id not in self._users:
            self._users = {name: user for name, user in self._users.items() if not user.idle(now)}
        return self._users.setdefault(user_id, _User(now))

    def _forget_ended(self, now: float) -> None:
        # In the order in which they ended: the first that is young enough ends the look.
        for generation_id, (at, _) in list(self._ended.items()):
            if now - at < PAUSE:
                break
            del self._ended[generation_id]
