"""The rates of createTask: requests in ten seconds and key of KIE's, orders in a minute and end user.

A rate is the exact window of the last calls, one row for each key or user, so all replicas share it. A window that is
read with its row locked cannot be exceeded. `create_requests` draws in the transaction of an order; `worker/create/`
draws again for an order that was held up.
"""

from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from reconciler.postgres.pool import ASYNC_COMMIT, Database
from reconciler.postgres.statement import Statement

WINDOW = 10.0
"""Seconds in which KIE counts createTask requests, by its documentation."""

SLACK = 1.0
"""Seconds by which our window is longer: KIE counts when a request arrives, we count when it was granted."""

LONGEST_SHUT = 60.0
"""The longest rest of a key in seconds after KIE says that we are too fast; a clock that jumped must not prolong it."""

USER_WINDOW = 60.0
"""Seconds in which the orders of an end user are counted."""

# The clock is read with the row locked. A time in the future was written before the clock was set back.
_RECENT = """(SELECT count(*) FROM unnest(c.recent) AS t (at)
               WHERE at > clock_timestamp() - :window::interval AND at <= clock_timestamp() + :window::interval)"""
_SHUT = "(c.shut > clock_timestamp() AND c.shut <= clock_timestamp() + :longest_shut::interval)"
_OLDEST = "c.recent[cardinality(c.recent) - :count + 1] + :window::interval"
_KEY_WAIT = f"extract(epoch FROM greatest({_OLDEST}, CASE WHEN {_SHUT} THEN c.shut END) - clock_timestamp())::float8"


def _draw_key(returning: str) -> Statement:
    """Read the recent requests with a key; add one where fewer than :count stand in the window and it does not rest.

    Returns 0, or the seconds until a request may be had.
    """
    return Statement(f"""
WITH granted AS (
    INSERT INTO reconciler.creations AS c (key_hash, recent) VALUES (:key_hash, ARRAY[clock_timestamp()])
    ON CONFLICT (key_hash) DO UPDATE
       SET recent = array_append(c.recent[cardinality(c.recent) - :count + 2:], clock_timestamp())
     WHERE {_RECENT} < :count AND {_SHUT} IS NOT TRUE
    RETURNING {returning})
SELECT 0.0::float8 AS wait FROM granted
 UNION ALL
SELECT {_KEY_WAIT}
  FROM (SELECT) AS always LEFT JOIN reconciler.creations c ON c.key_hash = :key_hash
 WHERE NOT EXISTS (SELECT FROM granted)""")


_DRAW_KEY = _draw_key(ASYNC_COMMIT)
# In the transaction of an order: its row must be on the disk before KIE is asked.
_DRAW_KEY_DURABLY = _draw_key("true")

# Reads the keys :key_hashes that have no request left: how many, and the seconds until the first of them has one.
_PEEK = Statement(f"""
SELECT count(*) AS used_up, min({_KEY_WAIT}) AS wait FROM reconciler.creations c
 WHERE c.key_hash = ANY(:key_hashes) AND ({_RECENT} >= :count OR {_SHUT} IS TRUE)""")

# Writes until when a key rests; never shortens a rest.
_CLOSE = Statement("""
INSERT INTO reconciler.creations AS c (key_hash, shut)
VALUES (:key_hash, clock_timestamp() + :seconds::float8 * interval '1 second')
ON CONFLICT (key_hash) DO UPDATE
   SET shut = greatest(excluded.shut,
                       CASE WHEN c.shut <= clock_timestamp() + :longest_shut::interval THEN c.shut END)""")

# Reads the recent orders of a user; adds one where fewer than :count stand in the window. Returns 0, or the seconds
# until the user may order.
_DRAW_USER = Statement(f"""
WITH granted AS (
    INSERT INTO reconciler.user_orders AS c (user_id, recent) VALUES (:user_id, ARRAY[clock_timestamp()])
    ON CONFLICT (user_id) DO UPDATE
       SET recent = array_append(c.recent[cardinality(c.recent) - :count + 2:], clock_timestamp()), at = now()
     WHERE {_RECENT} < :count
    RETURNING true)
SELECT 0.0::float8 AS wait FROM granted
 UNION ALL
SELECT extract(epoch FROM {_OLDEST} - clock_timestamp())::float8
  FROM (SELECT) AS always LEFT JOIN reconciler.user_orders c ON c.user_id = :user_id
 WHERE NOT EXISTS (SELECT FROM granted)""")


class CreateRates:
    """The rates of all replicas; `rate` counts requests in ten seconds and key, `user_rate` orders a minute and user.

    The methods that take a connection draw in its transaction: a rollback gives the request back.
    """

    def __init__(self, database: Database, *, rate: float, user_rate: float) -> None:
        self._database = database
        count = max(int(rate), 1)
        self._window = WINDOW * count / rate + SLACK
        window, longest_shut = timedelta(seconds=self._window), timedelta(seconds=LONGEST_SHUT)
        self._limits = {"count": count, "window": window, "longest_shut": longest_shut}
        user_count = max(int(user_rate), 1)
        self._user_window = USER_WINDOW * user_count / user_rate
        self._user_limits = {"count": user_count, "window": timedelta(seconds=self._user_window)}

    async def grant(self, key_hash: str) -> float:
        """Take one of this key's requests; return 0, or the seconds until one may be had where none was left."""
        return _seconds(await self._database.value(*_DRAW_KEY(key_hash=key_hash, **self._limits)), self._window)

    async def pause(self, key_hash: str, seconds: float) -> None:
        """Grant nothing with this key for so many seconds, a minute at most: KIE says that we are too fast."""
        longest_shut = self._limits["longest_shut"]
        statement = _CLOSE(key_hash=key_hash, seconds=min(seconds, LONGEST_SHUT), longest_shut=longest_shut)
        await self._database.execute(*statement)

    async def peek(self, connection: asyncpg.Connection, key_hashes: Sequence[str]) -> float:
        """Return 0 where one of these keys has a request left, or the seconds until one has; takes nothing."""
        row = await connection.fetchrow(*_PEEK(key_hashes=list(key_hashes), **self._limits))
        return _seconds(row["wait"], self._window) if row["used_up"] == len(key_hashes) else 0.0

    async def grant_with(self, connection: asyncpg.Connection, key_hash: str) -> float:
        """Do what `grant` does, in this transaction. The key's row stays locked until its end."""
        return _seconds(await connection.fetchval(*_DRAW_KEY_DURABLY(key_hash=key_hash, **self._limits)), self._window)

    async def draw_user(self, connection: asyncpg.Connection, user_id: str) -> float:
        """Take one of this user's orders; return 0, or the seconds until the next one. Their row stays locked."""
        wait = await connection.fetchval(*_DRAW_USER(user_id=user_id, **self._user_limits))
        return _seconds(wait, self._user_window)

    async def count_attempt(self, user_id: str) -> None:
        """Count an order of this user that was refused, after its own transaction is rolled back."""
        await self._database.execute(*_DRAW_USER(user_id=user_id, **self._user_limits))


def _seconds(wait: float | None, window: float) -> float:
    """Return 0 for a grant, else the seconds to wait; a key without a row had one when its statement began."""
    if wait == 0.0:
        return 0.0
    # A request that a jumping clock has dated ahead is in nobody's way for longer than the window.
    return min(max(window if wait is None else wait, 0.1), max(window, LONGEST_SHUT))
