"""The faults of the storm: each begins without a warning, lasts, and is repaired."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType

import asyncpg

from benchmarks.chaos.world import World, asked
from benchmarks.neighbours.bad import NEIGHBOURS, Neighbour
from reconciler.postgres.migrations.migration_files import trigger_names
from testkit.standins.proxy import Proxy
from testkit.standins.storage.faults import at_random

Fault = Callable[[World, random.Random], AbstractAsyncContextManager[None]]

KIE_FAULTS = ("http_500", "http_429", "html_502", "truncated", "null", "body_455", "hang", "reset")
LATE_FAULTS = ("late.hole", "late.empty", "place.watermark")
FILE_FAULTS = ("404", "500", "short", "empty", "html", "slow", "reset", "wrong_type")


@contextlib.asynccontextmanager
async def killed(on: World, dice: random.Random) -> AsyncIterator[None]:
    """A replica dies as in a power cut, and is started again."""
    n = dice.randrange(len(on.replicas))
    await on.replicas[n].kill()
    yield
    await on.start(n)


@contextlib.asynccontextmanager
async def stopped(on: World, dice: random.Random) -> AsyncIterator[None]:
    """A replica sleeps longer than its leases and then goes on as if nothing had been."""
    sleeper = dice.choice(on.replicas)
    sleeper.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(on.terms.lease * 1.1)
        yield
    finally:
        sleeper.signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def deployed(on: World, dice: random.Random) -> AsyncIterator[None]:
    """A replica is told to stop under load, and another is started in its place."""
    n = dice.randrange(len(on.replicas))
    leaving = on.replicas[n]
    leaving.signal(signal.SIGTERM)
    yield
    await on.start(n)
    ended = await leaving.ended(within=60)
    # Another fault may have killed it meanwhile, or it was told before it could listen.
    assert ended.code in (0, -signal.SIGKILL, -signal.SIGTERM), (ended.code, ended.lines)


def told(sql: str) -> Fault:
    """PostgreSQL is told something behind our back; where it is away it has trouble enough."""

    @contextlib.asynccontextmanager
    async def fault(on: World, _: random.Random) -> AsyncIterator[None]:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await asked(on.postgres, sql)
        yield

    return fault


@contextlib.asynccontextmanager
async def database_crashed(on: World, _: random.Random) -> AsyncIterator[None]:
    """PostgreSQL stops at once and recovers."""
    async with on.database:
        await asyncio.to_thread(on.postgres.stop, immediate=True)
        try:
            yield
        finally:
            await asyncio.to_thread(on.postgres.restart)


@contextlib.asynccontextmanager
async def database_read_only(on: World, _: random.Random) -> AsyncIterator[None]:
    """PostgreSQL takes no writes, as after a failover to a standby."""
    async with on.database:
        await asked(on.postgres, "ALTER SYSTEM SET default_transaction_read_only = on")
        await asked(on.postgres, "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            await asked(on.postgres, "ALTER SYSTEM RESET default_transaction_read_only")
            await asked(on.postgres, "SELECT pg_reload_conf()")


@contextlib.asynccontextmanager
async def announcements_silenced(on: World, _: random.Random) -> AsyncIterator[None]:
    """The triggers say nothing: only the sweep finds what is new."""
    silence = "ALTER TABLE public.generations {0} TRIGGER {1}"
    async with on.database:
        for name in trigger_names():
            await asked(on.postgres, silence.format("DISABLE", name))
        try:
            yield
        finally:
            for name in trigger_names():
                await asked(on.postgres, silence.format("ENABLE", name))


def silent(which: Callable[[World, random.Random], Proxy]) -> Fault:
    """A line swallows every byte: half-open connections."""

    @contextlib.asynccontextmanager
    async def fault(on: World, dice: random.Random) -> AsyncIterator[None]:
        line = which(on, dice)
        line.swallow()
        try:
            yield
        finally:
            line.mend()

    return fault


def cut(which: Callable[[World, random.Random], Proxy]) -> Fault:
    """A line is cut and refuses to be opened again."""

    @contextlib.asynccontextmanager
    async def fault(on: World, dice: random.Random) -> AsyncIterator[None]:
        line = which(on, dice)
        await line.refuse()
        try:
            yield
        finally:
            line.mend()

    return fault


@contextlib.asynccontextmanager
async def kie_errs(on: World, dice: random.Random) -> AsyncIterator[None]:
    """KIE and its files answer what they never should; results come late, or stand where few look."""
    for _ in range(10):
        on.rig.kie.strike(dice.choice(LATE_FAULTS), seconds=dice.uniform(1.0, 6.0))
        on.rig.kie.strike(f"record.{dice.choice(KIE_FAULTS)}")
        on.rig.kie.strike(f"file.{dice.choice(FILE_FAULTS)}")
    yield
    on.rig.kie.calm()


@contextlib.asynccontextmanager
async def storage_errs(on: World, dice: random.Random) -> AsyncIterator[None]:
    """Half of what storage is asked fails, some of it after the work was done."""
    on.storage.faults.roll = at_random(0.5, dice.randrange(1 << 30))
    try:
        yield
    finally:
        on.storage.faults.clear()


def beside(neighbour: Neighbour) -> Fault:
    """A neighbour takes what it can get; where the database is away, it does not come."""

    @contextlib.asynccontextmanager
    async def fault(on: World, _: random.Random) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.suppress(OSError, AssertionError, asyncpg.PostgresError, asyncpg.InterfaceError):
                url = f"http://127.0.0.1:{await on.replicas[0].port()}"
                await stack.enter_async_context(neighbour(on.rig, url))
            yield

    return fault


def database_line(on: World, dice: random.Random) -> Proxy:
    """The line of one replica to the database."""
    return dice.choice(on.lines)


BACKENDS_ENDED = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kie-reconciler'"
# Leases as they are drawn by a clock that has been set back since.
CLOCK_JUMPED = "UPDATE reconciler.work SET lease_until = lease_until + interval '1 hour' WHERE lease IS NOT NULL"

FAULTS: MappingProxyType[str, Fault] = MappingProxyType(
    {
        "replica killed": killed,
        "replica stopped past its leases": stopped,
        "replica deployed anew": deployed,
        "backends terminated": told(BACKENDS_ENDED),
        "PostgreSQL crashed": database_crashed,
        "PostgreSQL read-only": database_read_only,
        "triggers silenced": announcements_silenced,
        "clock jumped": told(CLOCK_JUMPED),
        "line to PostgreSQL silent": silent(database_line),
        "line to PostgreSQL cut": cut(database_line),
        "line to KIE silent": silent(lambda on, _: on.kie_line),
        "line to KIE cut": cut(lambda on, _: on.kie_line),
        "KIE errs": kie_errs,
        "line to storage silent": silent(lambda on, _: on.storage_line),
        "line to storage cut": cut(lambda on, _: on.storage_line),
        "storage errs": storage_errs,
        **{name: beside(neighbour) for name, neighbour in NEIGHBOURS.items()},
    }
)
