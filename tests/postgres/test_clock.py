"""The database's clock beside the uptime: when it is trusted, what a step does, and times that no clock could write."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from reconciler.boottime import boottime
from reconciler.postgres.clock import (
    MARK_LIFE,
    STEP,
    TRUSTED_AFTER,
    CheckedDatabase,
    ClockMark,
    ClockUntrusted,
    DatabaseClock,
)
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.pool import Database
from tests.postgres.books import Books, opened, resting

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
HOUR = 3600.0


class World:
    """The true time, by which the uptime goes, and a database's clock that a test sets beside it."""

    def __init__(self) -> None:
        self.passed = 1000.0
        self.ahead = 0.0
        self.clock = DatabaseClock(uptime=lambda: self.passed)

    @property
    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.passed + self.ahead)

    def look(self, *, took: float = 0.1, mark: ClockMark | None = None, clock: DatabaseClock | None = None) -> None:
        """Let a statement return the database's time."""
        asked_at = self.passed
        self.passed += took
        (clock or self.clock).observe(self.now - timedelta(seconds=took / 2), asked_at=asked_at, mark=mark)

    def watch(self, seconds: float) -> None:
        """Let so many seconds pass, with a look every ten."""
        for _ in range(round(seconds / 10)):
            self.passed += 9.9
            self.look()


@pytest.fixture
def world() -> World:
    return World()


def test_a_clock_that_was_looked_at_once_is_not_trusted(world: World) -> None:
    assert not world.clock.trusted
    world.look()
    assert not world.clock.trusted
    assert world.clock.trusted_now() is None


def test_a_clock_that_ran_evenly_for_ten_minutes_is_trusted(world: World) -> None:
    world.look()
    world.watch(TRUSTED_AFTER - 20)
    assert not world.clock.trusted
    world.watch(30)
    assert world.clock.trusted
    assert world.clock.trusted_now() == pytest.approx(world.now, abs=timedelta(seconds=0.2))


@pytest.mark.parametrize("hours", [25, 6, -6, -25])
def test_n4_a_step_is_noticed_at_the_first_look_and_costs_the_trust_until_ten_minutes_later(
    world: World, hours: int
) -> None:
    world.look()
    world.watch(700)
    world.ahead = hours * HOUR
    with capture_logs() as lines:
        world.look()
    assert not world.clock.trusted
    assert world.clock.stepped_at == world.now - timedelta(seconds=0.05)
    assert [(line["event"], round(line["seconds"] / HOUR)) for line in lines] == [("clock.stepped", hours)]

    world.watch(12)
    world.ahead = 0.0
    world.look()
    world.watch(TRUSTED_AFTER - 20)
    assert not world.clock.trusted, "the way back is a step, too"
    world.watch(30)
    assert world.clock.trusted


def test_a_slow_answer_is_no_step_and_a_step_behind_one_is_seen(world: World) -> None:
    world.look()
    world.watch(700)
    with capture_logs() as lines:
        world.look(took=25.0)
        world.watch(20)
    assert lines == []
    world.ahead = 60.0
    world.look(took=25.0)
    assert not world.clock.trusted


def test_a_clock_that_is_slewed_by_a_twelfth_is_no_step(world: World) -> None:
    world.look()
    for _ in range(100):
        world.passed += 9.9
        world.ahead += 0.83
        world.look()
    assert world.clock.stepped_at is None


def test_an_answer_from_before_the_step_that_comes_late_is_passed_over(world: World) -> None:
    world.look()
    world.passed += 10
    asked_at, old = world.passed, world.now
    world.passed += 1
    world.ahead = HOUR
    world.look()
    with capture_logs() as lines:
        world.clock.observe(old, asked_at=asked_at)
    assert lines == []


@pytest.mark.parametrize(
    ("steady", "stepped", "trusted"),
    [
        (-60.0, None, True),
        (-60.0, -HOUR, True),
        (-60.0, -30.0, False),
        (-60.0, 25 * HOUR, False),
        (-25 * HOUR, None, False),
        (6 * HOUR, None, False),
        (None, None, False),
    ],
    ids=["fresh", "stepped before", "stepped since", "stepped ahead", "forward", "back", "none"],
)
def test_n4_a_process_that_starts_trusts_the_clock_at_once_only_on_the_word_of_one_that_knew_it(
    world: World, steady: float | None, stepped: float | None, trusted: bool
) -> None:
    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else world.now + timedelta(seconds=seconds)

    world.look(mark=ClockMark(at(steady), at(stepped)))
    assert world.clock.trusted is trusted
    assert world.clock.stepped_at is None or world.clock.stepped_at <= world.now


def test_a_mark_of_later_does_not_shorten_the_wait(world: World) -> None:
    world.look()
    world.look(mark=ClockMark(steady_at=world.now))
    assert not world.clock.trusted


def test_a_command_trusts_a_clock_that_agrees_with_its_own(world: World) -> None:
    for ahead, trusted in ((0.0, True), (25 * HOUR, False)):
        clock = DatabaseClock(uptime=lambda: world.passed, wall=world.now.timestamp)
        told = world.now + timedelta(seconds=ahead)
        clock.observe(told, asked_at=world.passed)
        assert clock.trusted is trusted


# What follows asks a database.


@pytest.fixture
async def books(rows_dsn: str) -> AsyncIterator[Books]:
    async with opened(rows_dsn) as found:
        yield found


async def clock_row(database: Database) -> Any:
    return await database.row("SELECT *, now() AS now FROM reconciler.clock")


def watched(seconds: float = TRUSTED_AFTER) -> DatabaseClock:
    """Return a clock that has run evenly for so long."""
    clock = DatabaseClock()
    clock.observe(datetime.now(UTC) - timedelta(seconds=seconds), asked_at=boottime() - seconds)
    clock._steady_since -= seconds
    clock._offset = (datetime.now(UTC).timestamp() - boottime(),) * 2
    return clock


async def test_a_heartbeat_marks_the_clock_as_steady_only_where_its_process_knows_that(books: Books) -> None:
    await books.pool.execute("DELETE FROM reconciler.clock")
    fresh = Heartbeat(books.database, uuid.uuid4(), term=30.0)
    await fresh.beat({})
    assert (await clock_row(books.database))["steady_at"] is None
    await Heartbeat(books.database, uuid.uuid4(), term=30.0, clock=watched()).beat({})
    row = await clock_row(books.database)
    assert row["now"] - row["steady_at"] < MARK_LIFE
    await fresh.beat({})
    assert (await clock_row(books.database))["steady_at"] == row["steady_at"]


async def test_n4_a_heartbeat_sent_by_a_jumping_clock_leaves_no_mark(books: Books) -> None:
    await books.pool.execute("DELETE FROM reconciler.clock")
    clock = watched()
    assert clock._offset is not None
    clock._offset = (clock._offset[0] - 25 * HOUR, clock._offset[1] - 25 * HOUR)
    with capture_logs() as lines:
        await Heartbeat(books.database, uuid.uuid4(), term=30.0, clock=clock).beat({})
    assert (await clock_row(books.database))["steady_at"] is None
    assert [line["event"] for line in lines] == ["clock.stepped"]
    assert not clock.trusted


async def test_n4_what_waits_for_a_time_that_is_gone_comes_back_with_the_clock(books: Books) -> None:
    waiting, later = [await books.insert() for _ in range(2)]
    await books.claims().discover()
    ahead = "due_at = now() + interval '6 hours 20 seconds', early_at = now() + interval '6 hours 5 seconds'"
    await books.set(waiting, ahead)
    await books.set(later, "due_at = now() + interval '3 hours', early_at = NULL")
    await books.pool.execute("INSERT INTO reconciler.events (key, generation_id, kind, payload, next_at)"
                             " VALUES ('k', 'g', 'failed', '{}', now() + interval '6 hours 2 minutes')")  # fmt: skip
    beating = Heartbeat(books.database, uuid.uuid4(), term=30.0, clock=watched())
    await beating.beat({})
    await books.pool.execute("UPDATE reconciler.instances SET seen_at = now() + interval '6 hours'")
    await books.pool.execute("UPDATE reconciler.clock SET seen_at = now() + interval '6 hours'")

    # Nobody looked while the clock was set back: the last heartbeat says by how much.
    result = await Heartbeat(books.database, uuid.uuid4(), term=30.0, clock=watched()).beat({})
    assert result.clock_behind == pytest.approx(6 * HOUR, abs=30)
    assert await beating.settle_clock(result.clock_behind)

    work = await books.work(waiting)
    assert work is not None
    assert 0 < work["due_in"] < 60
    assert (await books.work(later) or {})["due_in"] <= 0
    assert await books.pool.fetchval("SELECT next_at - now() < interval '5 minutes' FROM reconciler.events")
    assert await books.pool.fetchval("SELECT bool_and(seen_at <= now()) FROM reconciler.instances")
    assert (await clock_row(books.database))["stepped_at"] is not None
    assert not await beating.settle_clock(0.0), "once"


async def test_n4_a_clock_that_went_ahead_and_back_between_two_heartbeats_brings_the_rows_back(books: Books) -> None:
    generation_id = await books.insert()
    await books.claims().discover()
    clock = watched()
    now = datetime.now(UTC)
    for ahead in (25 * HOUR, 0.0):
        clock.observe(now + timedelta(seconds=ahead), asked_at=boottime())
    await books.set(generation_id, "due_at = now() + interval '25 hours 20 seconds'")
    assert await clock.settle(books.database)
    assert 0 < (await books.work(generation_id) or {})["due_in"] < 60


async def test_n4_a_wait_that_was_chosen_by_a_made_up_age_is_cut_to_seconds(books: Books) -> None:
    """A daemon that started while the clock was a day ahead polls a row of one minute as rarely as one of a day."""
    in_flight, given_up = [await books.insert() for _ in range(2)]
    await books.claims().discover()
    ahead = "due_at = now() + interval '27 hours 30 minutes', early_at = now() + interval '25 hours 30 minutes'"
    await books.set(in_flight, ahead)
    await books.set(given_up, f"{ahead}, gave_up = true")

    assert await watched().settle(books.database, behind=25 * HOUR)

    assert 0 <= (await books.work(in_flight) or {})["due_in"] <= 20
    assert (await books.work(given_up) or {})["due_in"] == pytest.approx(2.5 * HOUR, abs=30)
    early = "SELECT bool_and(early_at <= due_at) FROM reconciler.work"
    assert await books.pool.fetchval(early)


TOO_FAR = {
    "due_at": ("interval '6 hours 16 minutes'", "interval '6 hours'"),
    "audit_at": ("interval '41 days'", "interval '33 days'"),
    "delivered_at": ("interval '25 hours'", "interval '0'"),
}


@pytest.mark.parametrize("column", TOO_FAR)
async def test_n4_a_time_of_a_row_that_no_clock_could_write_counts_as_now_at_the_next_sweep(
    books: Books, column: str
) -> None:
    far, near = TOO_FAR[column]
    ids = [await books.insert(status="success", asset_url="https://shop.example/a.png") for _ in range(2)]
    for generation_id, ahead in zip(ids, (far, near), strict=True):
        await books.pool.execute(
            f"INSERT INTO reconciler.work (generation_id, {column}) VALUES ($1, now() + {ahead})", generation_id
        )
    before = await books.pool.fetchval(f"SELECT {column} FROM reconciler.work WHERE generation_id = $1", ids[1])
    await books.claims().discover()
    brought, kept = [
        await books.pool.fetchrow(
            f"SELECT {column} AS at, {column} <= now() AS past FROM reconciler.work WHERE generation_id = $1", each
        )
        for each in ids
    ]
    assert brought["past"]
    assert kept["at"] == before


async def test_n4_instances_watchers_and_events_dated_ahead_count_as_of_now_at_the_next_sweep(books: Books) -> None:
    await Heartbeat(books.database, uuid.uuid4(), term=30.0).beat({})
    await books.pool.execute("UPDATE reconciler.instances SET seen_at = now() + interval '25 hours'")
    await books.pool.execute("INSERT INTO reconciler.watching (until) VALUES (now() + interval '25 hours')")
    await books.pool.execute("INSERT INTO reconciler.events (key, generation_id, kind, payload, next_at)"
                             " VALUES ('k', 'g', 'failed', '{}', now() + interval '25 hours')")  # fmt: skip
    assert not (await Heartbeat(books.database, uuid.uuid4(), term=30.0).beat({})).watched
    await books.claims().discover()
    for table, column in (("instances", "seen_at"), ("watching", "until"), ("events", "next_at")):
        assert await books.pool.fetchval(f"SELECT bool_and({column} <= now()) FROM reconciler.{table}"), table


PAST = (
    "acknowledged_at", "answered_at", "completed_at", "looked_at", "failing_since", "empty_since", "empty_counted_at",
    "missing_since", "task_since",
)  # fmt: skip


async def test_n4_a_time_ahead_where_only_the_past_makes_sense_is_read_as_now(books: Books) -> None:
    generation_id = await books.insert()
    await books.claims().discover()
    ahead = ", ".join(f"{name} = now() + interval '25 hours'" for name in PAST)
    await books.set(generation_id, f"{ahead}, results_task = seen_task")
    claimed = (await books.ledger().read([generation_id]))[generation_id]
    row = claimed.row
    times = (
        row.acknowledged_at, row.answered_at, row.completed_at, row.polled_at, row.failing_since, row.empty_since,
        row.empty_counted_at, row.missing_since, row.task_since,
    )  # fmt: skip
    assert all(time is not None and time <= claimed.now for time in times), times

    claim = await books.claim(generation_id)
    await books.ledger().note(row, claim)
    assert await books.pool.fetchval("SELECT task_since <= now() FROM reconciler.work"), "the next write mends it"


async def test_n4_a_rest_is_a_wait_and_not_a_time_of_the_clock_that_decided(books: Books) -> None:
    generation_id = await books.insert()
    row, claim = await books.held(generation_id)
    jumped = datetime.now(UTC) + timedelta(hours=6)
    rest = resting(6 * HOUR + 30)
    await books.ledger().rest(row, claim, rest, decided_at=jumped)
    assert (await books.work(generation_id) or {})["due_in"] == pytest.approx(30, abs=15)


async def test_n4_nothing_is_deleted_by_its_age_while_the_clock_is_not_trusted(books: Books) -> None:
    await books.pool.execute("INSERT INTO reconciler.requests (caller, key, digest, at)"
                             " VALUES ('', 'k', 'd', now() - interval '4 days')")  # fmt: skip
    erase = "DELETE FROM reconciler.requests WHERE at < now() - interval '3 days' RETURNING key"
    stepped = watched()
    stepped.observe(datetime.now(UTC) + timedelta(hours=25), asked_at=boottime())
    unwatched = DatabaseClock()
    await books.pool.execute("UPDATE reconciler.clock SET steady_at = NULL")
    for clock in (stepped, unwatched):
        with pytest.raises(ClockUntrusted):
            await CheckedDatabase(books.database, clock).fetch(erase)
    assert await books.pool.fetchval("SELECT count(*) FROM reconciler.requests") == 1

    await books.pool.execute("UPDATE reconciler.clock SET stepped_at = now() - interval '50 minutes'")
    with pytest.raises(ClockUntrusted):
        await CheckedDatabase(books.database, watched()).fetch(erase)
    await books.pool.execute("UPDATE reconciler.clock SET stepped_at = now() - interval '2 hours'")
    assert len(await CheckedDatabase(books.database, watched()).fetch(erase)) == 1


def test_the_step_is_a_few_seconds_and_the_second_look_minutes_later() -> None:
    assert 2 < STEP < 10
    assert TRUSTED_AFTER >= 120
