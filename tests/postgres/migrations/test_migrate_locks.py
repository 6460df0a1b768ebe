"""Migrating while other sessions hold the table: the wait is short, and its error names the session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from reconciler.errors import Transient
from reconciler.postgres.migrations.migrate import behind, migrate
from reconciler.postgres.migrations.migration_locks import LockPatience, take_turn
from testkit.tables import older_table
from testkit.waiting import until
from tests.postgres.catalog import catalog

HASTY = LockPatience(lock=0.2, tries=2, pause=0.05, build=0.5, turn=0.3)
ONCE_PER_BUILD = LockPatience(lock=0.2, tries=100, pause=0.05, build=0.5)
OPEN_INDEX = "040_open_index.sql"
FAILED_INDEX = "041_failed_index.sql"


@pytest.fixture
async def connection(empty_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(empty_dsn)
    await older_table(connection)
    yield connection
    await connection.close()


@asynccontextmanager
async def busy_session(dsn: str, *statements: str) -> AsyncIterator[int]:
    """Open a session called `nightly dump` that stays in a transaction after these statements; yield its process id."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "nightly dump"})
    try:
        async with connection.transaction(isolation="repeatable_read"):
            for statement in statements:
                await connection.execute(statement)
            yield connection.get_server_pid()
    finally:
        await connection.close()


async def test_the_wait_for_an_open_write_of_the_application_ends(empty_dsn: str, connection: Any) -> None:
    async with busy_session(empty_dsn, "UPDATE public.generations SET prompt = 'open'") as pid:
        async with asyncio.timeout(15):
            with pytest.raises(Transient) as refused:
                await migrate(empty_dsn, patience=HASTY)
    assert refused.value.code == "locked"
    assert f"pid {pid}" in refused.value.hint
    assert "nightly dump" in refused.value.hint
    # The files before it stay applied, and the rest follows when the table is free.
    assert "031_triggers.sql" in await migrate(empty_dsn, patience=HASTY)
    assert await behind(connection) == []


async def test_the_application_goes_on_while_a_migration_waits(empty_dsn: str, connection: Any) -> None:
    """A statement that queues behind our waiting lock waits only as long as we do."""
    patient = LockPatience(lock=0.3, tries=20, pause=0.1)
    async with busy_session(empty_dsn, "SELECT FROM public.generations"):  # as pg_dump holds it
        migration = asyncio.create_task(migrate(empty_dsn, application=True, patience=patient))
        await until(
            lambda: connection.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.generations'::regclass"
                " AND mode = 'AccessExclusiveLock'"
            ),
            what="the migration waits for its lock",
        )
        await connection.execute("SET statement_timeout = '3s'; UPDATE public.generations SET prompt = 'meanwhile'")
        assert not migration.done()
    await asyncio.wait_for(migration, 20)
    assert await behind(connection) == []


async def test_a_dump_keeps_only_the_index_waiting_and_its_broken_half_is_replaced(
    empty_dsn: str, connection: Any
) -> None:
    index = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('public.generations_reconciler_open')"
    async with busy_session(empty_dsn, "SELECT FROM public.generations") as pid:
        async with asyncio.timeout(15):
            with pytest.raises(Transient) as refused:
                await migrate(empty_dsn, patience=ONCE_PER_BUILD)
        assert f"pid {pid}" in refused.value.hint
        assert await connection.fetchval(index) is False
        assert await behind(connection) == [OPEN_INDEX, FAILED_INDEX]
    assert OPEN_INDEX in await migrate(empty_dsn, patience=HASTY)
    assert await connection.fetchval(index) is True
    assert await behind(connection) == []


async def test_a_failed_migration_leaves_each_step_whole(empty_dsn: str, connection: Any) -> None:
    await migrate(empty_dsn)
    before = await catalog(connection)
    async with busy_session(empty_dsn, "SELECT FROM public.generations"):
        with pytest.raises(Transient):
            await migrate(empty_dsn, application=True, patience=HASTY)
    assert await catalog(connection) == before


async def test_a_migration_that_does_not_end_is_named(empty_dsn: str, connection: Any) -> None:
    await take_turn(connection, HASTY)
    with pytest.raises(Transient) as refused:
        await migrate(empty_dsn, patience=HASTY)
    assert refused.value.code == "migration_running"
    assert "pg_stat_activity" in refused.value.hint


async def test_the_turn_of_a_migration_ends_with_its_connection(empty_dsn: str) -> None:
    first = await asyncpg.connect(empty_dsn)
    await take_turn(first, HASTY)
    first.terminate()
    await migrate(empty_dsn, patience=LockPatience(turn=10))
