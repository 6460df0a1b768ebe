"""The shared rate: one row a key in PostgreSQL, from which all replicas draw their requests.

The visit takes a slot before it asks KIE, and so does the door before it has an address minted; `worker/poll.py` lets
the key rest when KIE says that we are too fast. A time that lies minutes ahead was written by a clock that jumped, and
counts as expired.
"""

from __future__ import annotations

import asyncio
import time

from reconciler.errors import Transient
from reconciler.postgres.pool import SOON, Database

PATIENCE = 3.0
"""Seconds of a key's rest that are waited out; whoever waited longer would stand in the way of other keys' rows."""

FAR = 300.0
"""Seconds ahead from which on a time is not believed: no rest is as long, nor, but for a hundred requests, a queue."""

_FAR = "clock_timestamp() + $3 * interval '1 second'"

_TAKE = f"""
INSERT INTO reconciler.budget AS b (key_hash, next_at) VALUES ($1, clock_timestamp() + $2 * interval '1 second')
ON CONFLICT (key_hash) DO UPDATE
   SET next_at = greatest(CASE WHEN b.next_at < {_FAR} THEN b.next_at END, clock_timestamp()) + $2 * interval '1 second'
 WHERE coalesce(b.rests_until NOT BETWEEN clock_timestamp() + $4 * interval '1 second' AND {_FAR}, true)
RETURNING extract(epoch FROM b.next_at - clock_timestamp())::float8 - $2 AS wait, {SOON}
"""

# Who would not wait so long takes nothing from those who do.
_TAKE_SOON = f"""
INSERT INTO reconciler.budget AS b (key_hash, next_at) VALUES ($1, clock_timestamp() + $2 * interval '1 second')
ON CONFLICT (key_hash) DO UPDATE
   SET next_at = greatest(CASE WHEN b.next_at < {_FAR} THEN b.next_at END, clock_timestamp()) + $2 * interval '1 second'
 WHERE b.next_at NOT BETWEEN clock_timestamp() + $4 * interval '1 second' AND {_FAR}
RETURNING extract(epoch FROM b.next_at - clock_timestamp())::float8 - $2 AS wait, {SOON}
"""

_RESTS = "SELECT extract(epoch FROM rests_until - clock_timestamp())::float8 FROM reconciler.budget WHERE key_hash = $1"

_EMPTY = f"""
INSERT INTO reconciler.budget AS b (key_hash, next_at, rests_until)
SELECT $1, until, until FROM (SELECT clock_timestamp() + $2 * interval '1 second' AS until) AS rest
ON CONFLICT (key_hash) DO UPDATE
   SET next_at = greatest(CASE WHEN b.next_at < {_FAR} THEN b.next_at END, excluded.next_at),
       rests_until = greatest(CASE WHEN b.rests_until < {_FAR} THEN b.rests_until END, excluded.rests_until)
"""


class KeyResting(Transient):
    """The key rests for longer than anybody waits here: no slot was taken."""


class RateLimit:
    """Requests a second and key, for all replicas together."""

    def __init__(self, database: Database, rate: float) -> None:
        self._database = database
        self._gap = 1.0 / rate
        self._far = FAR + 100 * self._gap
        self._granted: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[float]] = {}
        self._turns: dict[str, int] = {}

    async def take(self, key_hash: str) -> float:
        """Wait for the key's next slot; return the seconds waited, or raise KeyResting.

        Those who ask in the same turn of the loop share one statement.
        """
        turn = self._turns[key_hash] = self._turns.get(key_hash, -1) + 1
        if turn == 0:
            self._asking[key_hash] = asyncio.create_task(self._draw(key_hash))
        first = await asyncio.shield(self._asking[key_hash])
        wait = max(first + turn * self._gap, 0.0)
        if wait > 0:
            await asyncio.sleep(wait)
        return wait

    async def take_soon(self, key_hash: str, seconds: float) -> bool:
        """Wait for the key's next slot, if it comes within so many seconds; else take none, and return false."""
        wait: float | None = await self._database.value(_TAKE_SOON, key_hash, self._gap, self._far, seconds)
        if wait is None:
            return False
        self._granted[key_hash] = time.monotonic() + max(wait, 0.0) + self._gap
        await asyncio.sleep(max(wait, 0.0))
        return True

    async def _draw(self, key_hash: str) -> float:
        """Take a slot for everybody who has asked until now; return the seconds until the first one."""
        await asyncio.sleep(0)
        count = self._turns.pop(key_hash) + 1
        seconds = self._gap * count
        wait: float | None = await self._database.value(_TAKE, key_hash, seconds, self._far, PATIENCE)
        if wait is None:
            rests = await self._database.value(_RESTS, key_hash) or 0.0
            self._granted[key_hash] = time.monotonic() + rests
            raise KeyResting("the key rests, KIE called it too fast", code="key_rests", retry_after=max(rests, 0.0))
        self._granted[key_hash] = time.monotonic() + max(wait, 0.0) + seconds
        return wait

    async def empty(self, key_hash: str, seconds: float) -> None:
        """Let nobody ask with this key for so many seconds: the provider said that we are too fast."""
        await self._database.execute(_EMPTY, key_hash, seconds, self._far)
        self._granted[key_hash] = time.monotonic() + seconds

    def spare(self, key_hash: str) -> bool:
        """Whether, as far as this process knows, a request could go out at once."""
        return self._granted.get(key_hash, 0.0) <= time.monotonic()
