"""The shared rate: one row a key in PostgreSQL, from which all replicas draw their requests.

The visit takes a slot before it polls KIE, and the download route does before it asks for an address; `worker/poll.py`
lets the key rest when KIE says that we are too fast. A slot that was taken before such a rest is not used after it:
within this process the callers that wait are woken, and a caller that waited long looks for a rest that another replica
has written. A time minutes ahead was written by a clock that jumped, and counts as expired.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from reconciler.domain.poll_interval import MAX_RETRY_AFTER
from reconciler.errors import Transient
from reconciler.postgres.pool import ASYNC_COMMIT, Database
from reconciler.postgres.statement import Statement

PATIENCE = 3.0
"""The longest rest of a key, in seconds, that a caller waits out; a longer wait would delay the rows of other keys."""

WINDOW = 10.0
"""Seconds without requests after KIE answers 429: the window of its documented limit."""

FAR = 300.0
"""Seconds ahead from which on a time is not believed: no rest is as long.

The time of a hundred requests is added, so that no queue is as long either."""

CURRENT_GAPS, CURRENT_SECONDS = 2.5, 0.1
"""How long what we know of a key's rest stays current: so many gaps between two requests, at least so many seconds.

All replicas together send no more requests than that after one of them has written a rest. A slot that comes sooner
costs no second statement."""

_IN_SECONDS = "clock_timestamp() + {}::float8 * interval '1 second'"
_FAR = _IN_SECONDS.format(":far")
_NEXT = f"greatest(CASE WHEN b.next_at < {_FAR} THEN b.next_at END, clock_timestamp())"


def _take_sql(condition: str) -> Statement:
    """Move the key's next slot on by :gap seconds; return the seconds until the slot taken, no row without one."""
    return Statement(f"""
INSERT INTO reconciler.budget AS b (key_hash, next_at) VALUES (:key_hash, {_IN_SECONDS.format(":gap")})
ON CONFLICT (key_hash) DO UPDATE SET next_at = {_NEXT} + :gap::float8 * interval '1 second'
 WHERE {condition}
RETURNING extract(epoch FROM b.next_at - clock_timestamp())::float8 - :gap AS wait, {ASYNC_COMMIT}""")


_PATIENCE = _IN_SECONDS.format(":patience")
_TAKE = _take_sql(f"coalesce(b.rests_until NOT BETWEEN {_PATIENCE} AND {_FAR}, true)")
# A caller that does not wait as long as the queue takes no slot from those who do.
_TAKE_SOON = _take_sql(f"b.next_at NOT BETWEEN {_PATIENCE} AND {_FAR}")

# Returns the seconds until the key's rest ends; null, or not above zero, where it does not rest.
_RESTS = Statement(f"""
SELECT extract(epoch FROM rests_until - clock_timestamp())::float8
  FROM reconciler.budget WHERE key_hash = :key_hash AND rests_until < {_FAR}""")

# Writes that the key rests for :seconds; never shortens a rest.
_EMPTY = Statement(f"""
INSERT INTO reconciler.budget AS b (key_hash, next_at, rests_until)
SELECT :key_hash, until, until FROM (SELECT {_IN_SECONDS.format(":seconds")} AS until) AS rest
ON CONFLICT (key_hash) DO UPDATE
   SET next_at = greatest(CASE WHEN b.next_at < {_FAR} THEN b.next_at END, excluded.next_at),
       rests_until = greatest(CASE WHEN b.rests_until < {_FAR} THEN b.rests_until END, excluded.rests_until)""")


def rest_seconds(retry_after: float | None) -> float:
    """Return how many seconds a key rests after a 429 with this Retry-After, None where it had none."""
    return min(retry_after or WINDOW, MAX_RETRY_AFTER)


class KeyResting(Transient):
    """The key rests for longer than a caller waits here: no slot was taken, or the one that was taken is not used."""


@dataclass(eq=False)
class _Rest:
    """What this process knows of a key's rest, by the monotonic clock; `begun` is set and replaced with every rest."""

    until: float = 0.0
    known_at: float = 0.0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    look: asyncio.Task[None] | None = None

    def extend(self, until: float) -> None:
        """Note a rest, and wake the callers that wait for a slot from before it."""
        self.until = max(self.until, until)
        self.begun.set()
        self.begun = asyncio.Event()


class RateLimit:
    """Requests a second and key, for all replicas together."""

    def __init__(self, database: Database, rate: float) -> None:
        self._database = database
        self._gap = 1.0 / rate
        self._far = FAR + 100 * self._gap
        self._current = max(CURRENT_GAPS * self._gap, CURRENT_SECONDS)
        self._granted: dict[str, float] = {}
        self._draws: dict[str, asyncio.Task[float | None]] = {}
        self._turns: dict[str, int] = {}
        self._rests: dict[str, _Rest] = {}

    async def take(self, key_hash: str) -> float:
        """Wait for the key's next slot; return the seconds waited, or raise KeyResting.

        Callers in the same turn of the event loop share one statement. A rest that begins meanwhile costs the slot.
        """
        waited = 0.0
        while True:
            if (rests := self._short_rest(key_hash)) > 0:
                waited += rests
                await asyncio.sleep(rests)
                continue
            begun = self._rest(key_hash).begun
            turn = self._turns[key_hash] = self._turns.get(key_hash, -1) + 1
            if turn == 0:
                self._draws[key_hash] = asyncio.create_task(self._draw(key_hash))
            first = await asyncio.shield(self._draws[key_hash])
            if first is None:
                continue
            wait = max(first + turn * self._gap, 0.0)
            waited += wait
            if await self._reach(key_hash, wait, begun):
                return waited

    async def take_soon(self, key_hash: str, seconds: float) -> bool:
        """Wait for the key's next slot where it comes within so many seconds; else, or if the key rests, return False.

        Then no slot was taken, or it is not used.
        """
        rest = self._rest(key_hash)
        begun, rests = rest.begun, rest.until - time.monotonic()
        if rests > seconds:
            return False
        statement = _TAKE_SOON(key_hash=key_hash, gap=self._gap, far=self._far, patience=seconds)
        sent_at = time.monotonic()
        wait: float | None = await self._database.value(*statement)
        if wait is None:
            return False
        rest.known_at = sent_at
        self._granted[key_hash] = time.monotonic() + max(wait, 0.0) + self._gap
        return await self._reach(key_hash, max(wait, rests, 0.0), begun)

    async def _draw(self, key_hash: str) -> float | None:
        """Take a slot for every caller until now; return the seconds until the first one, None if a rest just ended."""
        await asyncio.sleep(0)
        count = self._turns.pop(key_hash) + 1
        seconds = self._gap * count
        statement = _TAKE(key_hash=key_hash, gap=seconds, far=self._far, patience=PATIENCE)
        sent_at = time.monotonic()
        wait: float | None = await self._database.value(*statement)
        if wait is None:
            await self._look(key_hash)
            self._short_rest(key_hash)
            return None
        self._rest(key_hash).known_at = sent_at
        self._granted[key_hash] = time.monotonic() + max(wait, 0.0) + seconds
        return wait

    async def _reach(self, key_hash: str, wait: float, begun: asyncio.Event) -> bool:
        """Wait for a slot that was taken; return whether it may be used: no rest has `begun` since it was asked for."""
        rest = self._rest(key_hash)
        if wait > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await begun.wait()
        if not begun.is_set() and time.monotonic() - rest.known_at > self._current:
            if rest.look is None or rest.look.done():
                rest.look = asyncio.create_task(self._look(key_hash))
            await asyncio.shield(rest.look)
        return not begun.is_set()

    async def _look(self, key_hash: str) -> None:
        """Read whether the key rests, and note it."""
        rest, sent_at = self._rest(key_hash), time.monotonic()
        seconds: float = await self._database.value(*_RESTS(key_hash=key_hash, far=self._far)) or 0.0
        rest.known_at = sent_at
        if seconds > 0:
            self._note_rest(key_hash, seconds)

    async def pause(self, key_hash: str, seconds: float) -> None:
        """Let the key rest for so many seconds: KIE said that we are too fast."""
        # First in this process, which needs no database for it.
        self._note_rest(key_hash, seconds)
        await self._database.execute(*_EMPTY(key_hash=key_hash, seconds=seconds, far=self._far))

    def _note_rest(self, key_hash: str, seconds: float) -> None:
        rest = self._rest(key_hash)
        rest.extend(time.monotonic() + seconds)
        self._granted[key_hash] = max(self._granted.get(key_hash, 0.0), rest.until)

    def _short_rest(self, key_hash: str) -> float:
        """Return the seconds until the key's rest ends, as far as we know; raise KeyResting for a long one."""
        rests = self._rest(key_hash).until - time.monotonic()
        if rests > PATIENCE:
            raise KeyResting("the key rests, KIE called it too fast", code="key_rests", retry_after=rests)
        return rests

    def _rest(self, key_hash: str) -> _Rest:
        return self._rests.setdefault(key_hash, _Rest())

    def spare(self, key_hash: str) -> bool:
        """Whether a request could go out at once, as far as this process knows."""
        return self._granted.get(key_hash, 0.0) <= time.monotonic()
