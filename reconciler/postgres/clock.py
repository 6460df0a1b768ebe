"""The database's clock beside the clock of this machine's uptime: whether it runs evenly, and what follows a step.

Every statement that returns the database's time tells it here (`Ledger.read`, the heartbeat). A conclusion by elapsed
time that cannot be taken back needs a trusted clock: this process has seen it run evenly for TRUSTED_AFTER, or, at its
start, another process that had is still fresh in `reconciler.clock`. So no such conclusion rests on one reading.

    untrusted ──TRUSTED_AFTER seconds without a step──> trusted
        ^  └──the first reading, where the mark of a steady daemon is younger than MARK_LIFE──^
        └──a step of more than STEP seconds, forward or back──────────────────────────────────┘
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg
import structlog

from reconciler.boottime import boottime
from reconciler.errors import Transient
from reconciler.postgres.pool import Database, StatementRunner
from reconciler.postgres.predicates import far_ahead
from reconciler.postgres.statement import Statement

log = structlog.get_logger()

T = TypeVar("T")

STEP = 5.0
"""Seconds between the two clocks from which on a difference is a step; a clock that is slewed never gets there."""

TRUSTED_AFTER = 600.0
"""Seconds without a step after which the clock is trusted."""

MARK_LIFE = timedelta(minutes=2)
"""How long the mark of a daemon with a trusted clock vouches for a process that starts."""

QUIET = timedelta(hours=1)
"""Nothing is deleted by its age for so long after a step: a mark that was written during the step looks older."""

_NARROW = 1.0
"""Seconds of an answer beyond which it is no new measure: it only shows a step."""

# Moves everything that waits for a later time to where it was meant to be, where the clock was set back by :seconds.
# A row in flight waits for 20 seconds more at most: a false age by that clock may have chosen its wait. What
# was written before the step comes earlier than planned, which costs a look. Rows that are being written are passed
# over: their writers write a new time.
_SET_BACK = Statement(f"""
WITH waiting AS (
    SELECT generation_id, greatest(now(), least(
               due_at - :seconds::float8 * interval '1 second',
               CASE WHEN NOT gave_up AND delivered_at IS NULL THEN now() + random() * interval '20 seconds' END
           )) AS due_at
      FROM reconciler.work WHERE due_at > now() ORDER BY due_at FOR UPDATE SKIP LOCKED),
work AS (
    UPDATE reconciler.work w
       SET due_at = waiting.due_at,
           early_at = CASE WHEN w.early_at IS NOT NULL
                           THEN least(w.early_at - :seconds::float8 * interval '1 second', waiting.due_at) END,
           write_at = w.write_at - :seconds::float8 * interval '1 second'
      FROM waiting WHERE w.generation_id = waiting.generation_id),
events AS (
    UPDATE reconciler.events SET next_at = greatest(now(), next_at - :seconds::float8 * interval '1 second')
     WHERE announced_at IS NULL AND dead_at IS NULL AND coalesce(next_at, '-infinity') > now())
UPDATE reconciler.instances SET seen_at = now() WHERE {far_ahead("seen_at", "5 seconds")}""")

# Writes that the clock has stepped.
_STEPPED = Statement("""
INSERT INTO reconciler.clock AS c (seen_at, stepped_at) VALUES (now(), now())
ON CONFLICT (single) DO UPDATE SET seen_at = now(), stepped_at = now()""")

READ_CLOCK = """(SELECT steady_at FROM reconciler.clock) AS clock_steady_at,
       (SELECT stepped_at FROM reconciler.clock) AS clock_stepped_at"""
"""The columns of a statement that tell a DatabaseClock what other processes have seen."""

_CHECK = f"SELECT now() AS now, {READ_CLOCK}"


class ClockUntrusted(Transient):
    """Nothing is deleted by its age now: the database's clock has stepped, or has not been watched for long enough."""


@dataclass(frozen=True, slots=True)
class ClockMark:
    """What other processes have seen: when the clock was last known to be steady, and when it last stepped."""

    steady_at: datetime | None = None
    stepped_at: datetime | None = None

    def vouches(self, now: datetime) -> bool:
        """Return whether a daemon that knew the clock was running just now, by the clock that it knew."""
        if self.steady_at is None or abs(now - self.steady_at) > MARK_LIFE:
            return False
        return self.stepped_at is None or self.stepped_at < self.steady_at


def mark_of(record: Mapping[str, Any]) -> ClockMark:
    """Return the mark in a record with the columns of READ_CLOCK."""
    return ClockMark(record["clock_steady_at"], record["clock_stepped_at"])


class DatabaseClock:
    """What this process knows of the database's clock.

    With `wall`, a clock of this machine in Unix time, a first reading that agrees with it within a minute is trusted,
    too: that is for a command that ends at once.
    """

    def __init__(self, *, uptime: Callable[[], float] = boottime, wall: Callable[[], float] | None = None) -> None:
        self._uptime = uptime
        self._wall = wall
        # The database's time less the uptime lies between these two.
        self._offset: tuple[float, float] | None = None
        self._steady_since = 0.0
        self._vouched = False
        self._stepped_at: datetime | None = None
        self._set_back = 0.0
        self._unmarked = False

    @property
    def uptime(self) -> float:
        """The time to note before a statement is sent, for `observe`."""
        return self._uptime()

    def observe(self, now: datetime, *, asked_at: float, mark: ClockMark | None = None) -> None:
        """Take note of the database's time; `asked_at` is the uptime before its statement was sent."""
        answered_at = self._uptime()
        if mark is not None and mark.stepped_at is not None:
            self._stepped_at = min(max(self._stepped_at or mark.stepped_at, mark.stepped_at), now)
        if self._offset is None:
            self._begin(now, asked_at, answered_at, mark or ClockMark())
            return
        if asked_at < self._steady_since:
            # Sent before the last step was seen: it may tell the time of before.
            return
        offset = (now.timestamp() - answered_at, now.timestamp() - asked_at)
        low, high = self._offset
        if offset[0] > high + STEP or offset[1] < low - STEP:
            self._note_step(now, sum(offset) / 2 - (low + high) / 2, answered_at)
            self._offset = offset
        elif answered_at - asked_at < _NARROW:
            self._offset = offset

    def _begin(self, now: datetime, asked_at: float, answered_at: float, mark: ClockMark) -> None:
        self._offset = (now.timestamp() - answered_at, now.timestamp() - asked_at)
        self._steady_since = asked_at
        self._vouched = mark.vouches(now)
        if self._wall is not None and abs(self._wall() - now.timestamp()) < 60:
            self._vouched = True

    def _note_step(self, now: datetime, seconds: float, answered_at: float) -> None:
        log.warning("clock.stepped", seconds=round(seconds, 1))
        self._steady_since = answered_at
        self._vouched = False
        self._stepped_at = now
        self._unmarked = True
        # Only steps back are added: what was written before the clock came back waits for a time that is gone.
        self._set_back += max(-seconds, 0.0)

    @property
    def trusted(self) -> bool:
        """Whether a conclusion by elapsed time that cannot be taken back may be drawn."""
        if self._offset is None:
            return False
        return self._vouched or self._uptime() - self._steady_since >= TRUSTED_AFTER

    @property
    def stepped_at(self) -> datetime | None:
        """When the clock last stepped, as far as is known: a time from before it proves no elapsed time."""
        return self._stepped_at

    @property
    def quiet(self) -> bool:
        """Whether things may be deleted by their age: the clock is trusted, and its last step is an hour ago."""
        return self.trusted and (self._stepped_at is None or self._estimate() - self._stepped_at >= QUIET)

    def trusted_now(self) -> datetime | None:
        """Return the database's time by this machine's uptime, None while the clock is not trusted."""
        return self._estimate() if self.trusted else None

    def _estimate(self) -> datetime:
        assert self._offset is not None
        return datetime.fromtimestamp(self._uptime() + sum(self._offset) / 2, UTC)

    async def settle(self, database: Database, *, behind: float = 0.0) -> bool:
        """Write down a step that was seen, and bring back what waits for a time that is gone; return whether it was.

        `behind` is by how many seconds the clock is behind the last heartbeat of any process: it was set back while
        nobody looked.
        """
        seen = self._set_back
        back = max(seen, behind)
        if not self._unmarked and back <= STEP:
            return False
        await database.execute(*_STEPPED())
        if back > STEP:
            await database.execute(*_SET_BACK(seconds=back))
        self._unmarked = False
        self._set_back -= seen
        log.info("clock.settled", seconds=round(back, 1))
        return True


class CheckedDatabase(StatementRunner):
    """Runs each statement in a transaction whose now() this process has just compared; ClockUntrusted otherwise.

    In a statement that deletes by age, now() is then the very time that was checked.
    """

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock

    async def _run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def once() -> T:
            # now() is the beginning of the transaction, which lies between these two readings.
            asked_at = self._clock.uptime
            async with self._database.transaction() as connection:
                told = await connection.fetchrow(_CHECK)
                self._clock.observe(told["now"], asked_at=asked_at, mark=mark_of(told))
                if not self._clock.quiet:
                    raise ClockUntrusted(
                        "the database's clock has stepped, or was not watched for long enough",
                        code="clock_untrusted",
                        hint="nothing is deleted by its age until a daemon has watched the clock for some time",
                    )
                return await work(connection)

        return await self._database.run(once)
