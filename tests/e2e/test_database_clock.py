"""The clock of the database's server jumps while a daemon works: nothing is failed, refunded or deleted for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reconciler.demo.embedded_postgres import Postgres
from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import Simulator, never
from testkit import commands
from testkit.clocked_postgres import clocked_postgres
from testkit.replica import Replica
from testkit.stage import Rig, staged
from testkit.standins.clock import COMPILER, Clock
from testkit.standins.storage import SupabaseStorage
from testkit.waiting import until

pytestmark = pytest.mark.skipif(COMPILER is None, reason="a clock that can be set has to be compiled")

HOUR = 3600

HOOK = """
CREATE TABLE public.refunds (generation_id uuid, reason text);
CREATE FUNCTION reconciler.on_failed(generation_id uuid, reason text) RETURNS void LANGUAGE sql
    AS 'INSERT INTO public.refunds VALUES (generation_id, reason)';
"""
STEADY = "INSERT INTO reconciler.clock (seen_at, steady_at) VALUES (now(), now())"


@pytest.fixture
def clocked(pg_programs: Path | None) -> Iterator[tuple[Postgres, Clock]]:
    with clocked_postgres(pg_programs) as pair:
        yield pair


@pytest.fixture
def clock(clocked: tuple[Postgres, Clock]) -> Clock:
    return clocked[1]


@pytest.fixture
async def rig(clocked: tuple[Postgres, Clock], kie: Simulator, tmp_path: Path) -> AsyncIterator[Rig]:
    """A stage whose PostgreSQL reads the clock; a daemon that had watched it for minutes has just ended."""
    server, _ = clocked
    await migrate(server.dsn(), application=True)
    async with staged(server.dsn(), kie, tmp_path, SupabaseStorage()) as stage:
        await stage.pool.execute(HOOK)
        await stage.pool.execute(STEADY)
        yield stage


async def hours_ahead(rig: Rig) -> int:
    """By how many hours the server's clock is ahead of ours."""
    seconds = await rig.pool.fetchval(
        "SELECT extract(epoch FROM clock_timestamp() - to_timestamp($1))::float8", time.time()
    )
    return round(seconds / HOUR)


async def waiting(rig: Rig) -> list[str]:
    """Rows whose tasks do not end by themselves, once each has been asked about."""
    ids = [await rig.order(life=never("waiting")) for _ in range(10)]
    await polled_again(rig, dict.fromkeys(rig.kie.tasks, 0))
    return ids


async def polled_again(rig: Rig, before: dict[str, int]) -> None:
    def all_polled() -> bool:
        return all(rig.kie.tasks[task].polls > polls for task, polls in before.items())

    await until(all_polled, 60, "a poll of every task")


def polls(rig: Rig) -> dict[str, int]:
    return {task.id: task.polls for task in rig.kie.tasks.values()}


async def nothing_was_concluded(rig: Rig) -> None:
    ended = await rig.pool.fetch("SELECT kind FROM reconciler.events WHERE kind IN ('failed', 'gave_up', 'lost')")
    failed = await rig.pool.fetchval(
        "SELECT count(*) FROM public.generations WHERE status = 'failed' AND prompt IS NULL"
    )
    assert (ended, failed, await rig.pool.fetchval("SELECT count(*) FROM public.refunds")) == ([], 0, 0)


async def noticed(replica: Replica, times: int) -> None:
    await until(lambda: len(replica.said("clock.stepped")) >= times, 30, f"{times} steps in the log")


@pytest.mark.sample(1)
@pytest.mark.parametrize("hours", [25, 6, -6], ids=["25 h ahead", "6 h ahead", "6 h back"])
async def test_n4_a_clock_that_jumps_for_some_seconds_fails_nothing_and_delays_nothing(
    rig: Rig, clock: Clock, hours: int
) -> None:
    """N4: ten of ten rows were failed and refunded after 25 h ahead, and slept for 6 h after 6 h ahead."""
    replica = await rig.run()
    ids = await waiting(rig)
    old = await rig.pool.fetchval(
        "INSERT INTO public.generations (kind, status, prompt, created_at)"
        " VALUES ('image', 'failed', 'old', now() - interval '20 hours') RETURNING id"
    )
    before = polls(rig)
    clock.turn(hours * HOUR)
    await noticed(replica, 1)
    assert await hours_ahead(rig) == hours
    await polled_again(rig, before)
    ids.append(await rig.order(life=never("waiting")))
    await rig.run()
    cleanup = ("cleanup", "--failed-older-than", "1d")
    refused = await commands.run(*cleanup, folder=rig.folder, environment=rig.environment())
    assert refused.code != 0, "a command of this minute does not believe this clock"
    # The newest row: the others are a day old by this clock, and asked about rarely.
    await polled_again(rig, {list(rig.kie.tasks)[-1]: 0})
    await nothing_was_concluded(rig)

    clock.turn(0)
    await noticed(replica, 2)
    for task in list(rig.kie.tasks):
        rig.kie.end(task)
    await rig.delivered(ids, within=60)
    await nothing_was_concluded(rig)
    assert await rig.pool.fetchval("SELECT count(*) FROM public.generations WHERE id = $1", old) == 1


@pytest.mark.soak
async def test_n4_a_daemon_that_is_replaced_during_a_jump_fails_nothing_either(rig: Rig, clock: Clock) -> None:
    first = await rig.run()
    ids = await waiting(rig)
    clock.turn(25 * HOUR)
    await noticed(first, 1)
    await first.kill()
    before = polls(rig)
    second = await rig.run()
    await polled_again(rig, before)
    await nothing_was_concluded(rig)
    await second.kill()
    # Nobody looks while the clock comes back.
    clock.turn(0)
    await rig.run()
    for task in list(rig.kie.tasks):
        rig.kie.end(task)
    await rig.delivered(ids, within=60)
    await nothing_was_concluded(rig)
