"""The shared rate: one row a key in PostgreSQL, from which all replicas draw their requests.

The visit takes a slot before it polls KIE, and the download route does before it asks for an address; `worker/poll.py`
lets the key rest when KIE says that we are too fast. A time minutes ahead was written by a clock that jumped, and
counts as expired.
"""

import asyncio
import time

from reconciler.errors import Transient
from reconciler.postgres.pool import ASYNC_COMMIT, Database
from reconciler.postgres.statement import Statement

PATIENCE = 3.0
"""The longest rest of a key, in seconds, that a caller waits out; a longer wait would delay the rows of other keys."""

FAR = 300.0
"""Seconds ahead from which on a time is not believed: no rest is as long.

The time of a hundred requests is added, so that no queue is as long either."""

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

# Returns the seconds until the key's rest ends.
_RESTS = Statement("""
SELECT extract(epoch FROM rests_until - clock_timestamp())::float8 FROM reconciler.budget WHERE key_hash = :key_hash""")

# Writes that the key rests for :seconds; never shortens a rest.
_EMPTY = Statement(f"""
INSERT INTO reconciler.budget AS b (key_hash, next_at, rests_until)
SELECT :key_hash, until, until FROM (SELECT {_IN_SECONDS.format(":seconds")} AS until) AS rest
ON CONFLICT (key_hash) DO UPDATE
   SET next_at = greatest(CASE WHEN b.next_at < {_FAR} THEN b.next_at END, excluded.next_at),
       rests_until = greatest(CASE WHEN b.rests_until < {_FAR} THEN b.rests_until END, excluded.rests_until)""")


class KeyResting(Transient):
    """The key rests for longer than a caller waits here: no slot was taken."""


class RateLimit:
    """Requests a second and key, for all replicas together."""

    def __init__(self, database: Database, rate: float) -> None:
        self._database = database
        self._gap = 1.0 / rate
        self._far = FAR + 100 * self._gap
        self._granted: dict[str, float] = {}
        self._draws: dict[str, asyncio.Task[float]] = {}
        self._turns: dict[str, int] = {}

    async def take(self, key_hash: str) -> float:
        """Wait for the key's next slot; return the seconds waited, or raise KeyResting.

        Callers in the same turn of the event loop share one statement.
        """
        turn = self._turns[key_hash] = self._turns.get(key_hash, -1) + 1
        if turn == 0:
            self._draws[key_hash] = asyncio.create_task(self._draw(key_hash))
        first = await asyncio.shield(self._draws[key_hash])
        wait = max(first + turn * self._gap, 0.0)
        if wait > 0:
            await asyncio.sleep(wait)
        return wait

    async def take_soon(self, key_hash: str, seconds: float) -> bool:
        """Wait for the key's next slot where it comes within so many seconds; else take none and return False."""
        statement = _TAKE_SOON(key_hash=key_hash, gap=self._gap, far=self._far, patience=seconds)
        wait: float | None = await self._database.value(*statement)
        if wait is None:
            return False
        self._granted[key_hash] = time.monotonic() + max(wait, 0.0) + self._gap
        await asyncio.sleep(max(wait, 0.0))
        return True

    async def _draw(self, key_hash: str) -> float:
        """Take a slot for every caller until now; return the seconds until the first one."""
        await asyncio.sleep(0)
        count = self._turns.pop(key_hash) + 1
        seconds = self._gap * count
        statement = _TAKE(key_hash=key_hash, gap=seconds, far=self._far, patience=PATIENCE)
        wait: float | None = await self._database.value(*statement)
        if wait is None:
            rests = await self._database.value(*_RESTS(key_hash=key_hash)) or 0.0
            self._granted[key_hash] = time.monotonic() + rests
            raise KeyResting("the key rests, KIE called it too fast", code="key_rests", retry_after=max(rests, 0.0))
        self._granted[key_hash] = time.monotonic() + max(wait, 0.0) + seconds
        return wait

    async def pause(self, key_hash: str, seconds: float) -> None:
        """Let the key rest for so many seconds: KIE said that we are too fast."""
        await self._database.execute(*_EMPTY(key_hash=key_hash, seconds=seconds, far=self._far))
        self._granted[key_hash] = time.monotonic() + seconds

    def spare(self, key_hash: str) -> bool:
        """Whether a request could go out at once, as far as this process knows."""
        return self._granted.get(key_hash, 0.0) <= time.monotonic()
