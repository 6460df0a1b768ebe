"""What PostgreSQL's errors mean to us: wait, run again, or let a person mend it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from reconciler.errors import Config, Transient
from reconciler.postgres.pool import Database, PlainConnection
from testkit.standins.pooler import pooler
from testkit.standins.proxy import Proxy
from testkit.waiting import until


@pytest.fixture
async def database(rows_dsn: str) -> AsyncIterator[Database]:
    database = Database(rows_dsn, size=3)
    yield database
    await database.close()


def elsewhere(dsn: str, **parts: str) -> str:
    """Return the same address with another password or database."""
    head, _, name = dsn.rpartition("/")
    user = head.partition("://")[2].partition(":")[0]
    host = head.rpartition("@")[2]
    password = parts.get("password", head.partition("@")[0].rpartition(":")[2])
    return f"postgresql://{user}:{password}@{host}/{parts.get('database', name)}"


async def test_a_missing_database_raises_config(rows_dsn: str) -> None:
    database = Database(elsewhere(rows_dsn, database="nobody_made_it"))
    with pytest.raises(Config) as refused:
        await database.fetch("SELECT 1")
    assert "DATABASE_URL" in refused.value.hint


async def test_a_rejected_password_raises_config_and_is_not_printed(rows_dsn: str) -> None:
    database = Database(elsewhere(rows_dsn, password="of-somebody-else"))
    with pytest.raises(Config) as refused:
        await database.fetch("SELECT 1")
    assert "of-somebody-else" not in f"{refused.value} {refused.value.hint} {refused.value!r}"


async def test_a_pooler_that_refuses_our_settings_raises_config() -> None:
    """PgBouncer 1.18 sends this by default. Waiting for it would never end."""
    message = b"SFATAL\0C08P01\0Munsupported startup parameter: tcp_keepalives_idle\0\0"

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"E" + (len(message) + 4).to_bytes(4) + message)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as pooler:
        port = pooler.sockets[0].getsockname()[1]
        database = Database(f"postgresql://anybody@127.0.0.1:{port}/shop?sslmode=disable")
        with pytest.raises(Config) as refused:
            await database.fetch("SELECT 1")
    assert "tcp_keepalives_idle" in str(refused.value)
    assert "ignore_startup_parameters = statement_timeout, " in refused.value.hint


async def test_a_missing_right_raises_config(database: Database) -> None:
    with pytest.raises(Config):
        await database.execute("SET ROLE pg_monitor; SELECT * FROM public.generations")
    await database.execute("RESET ROLE")


async def test_a_database_that_was_never_reached_is_in_trouble(rows_dsn: str) -> None:
    async with Proxy(rows_dsn) as proxy:
        await proxy.refuse()
        database = Database(proxy.dsn)
        with pytest.raises(Transient) as away:
            await database.value("SELECT 1")
        assert database.trouble == str(away.value)
        proxy.mend()
        assert await database.value("SELECT 1") == 1
        assert database.trouble is None
        await database.close()


async def test_a_database_that_is_away_is_waited_for_and_seen_to_come_back(rows_dsn: str) -> None:
    async with Proxy(rows_dsn) as proxy:
        database = Database(proxy.dsn, size=2)
        assert await database.value("SELECT 1") == 1
        await proxy.refuse()
        with pytest.raises(Transient) as away:
            await database.value("SELECT 1")
        assert away.value.code == "database_away"
        assert database.trouble == str(away.value)
        proxy.mend()
        assert await database.value("SELECT 1") == 1
        assert database.trouble is None
        await database.close()


async def test_a_statement_that_takes_too_long_is_given_up(database: Database) -> None:
    with pytest.raises(Transient):
        await database.execute("SET statement_timeout = '50ms'; SELECT pg_sleep(5)")


async def test_two_transactions_in_each_others_way_both_succeed(database: Database) -> None:
    await database.execute("INSERT INTO reconciler.pace (model) VALUES ('one'), ('two')")
    both_hold, one_is_through = asyncio.Barrier(2), asyncio.Event()
    tries = 0

    async def writes(first: str, second: str) -> None:
        nonlocal tries
        tries += 1
        again = tries > 2
        if again:
            # Otherwise it may take the lock again before the other, which waits for it, wakes up.
            await one_is_through.wait()
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL deadlock_timeout = '20ms'")
            await connection.execute("UPDATE reconciler.pace SET n = n + 1 WHERE model = $1", first)
            if not again:
                await both_hold.wait()
            await connection.execute("UPDATE reconciler.pace SET n = n + 1 WHERE model = $1", second)
        one_is_through.set()

    await asyncio.gather(database.run(lambda: writes("one", "two")), database.run(lambda: writes("two", "one")))
    assert tries == 3
    assert [row["n"] for row in await database.fetch("SELECT n FROM reconciler.pace")] == [2, 2]


async def test_a_lock_that_does_not_come_in_three_tries_raises_transient(database: Database) -> None:
    await database.execute("INSERT INTO reconciler.pace (model) VALUES ('one')")
    async with database.transaction() as other:
        await other.execute("SELECT FROM reconciler.pace FOR UPDATE")
        tries = 0

        async def blocked() -> None:
            nonlocal tries
            tries += 1
            async with database.transaction() as connection:
                await connection.execute("SET LOCAL lock_timeout = '20ms'")
                await connection.execute("UPDATE reconciler.pace SET n = 1")

        with pytest.raises(Transient) as busy:
            await database.run(blocked)
    assert (tries, busy.value.code) == (3, "database_busy")


async def test_the_pool_reconnects_after_a_server_became_read_only(database: Database) -> None:
    """A failover: the old primary continues as a standby, and the address leads to the new one."""
    one = Database(database._dsn, size=1)
    await one.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    with pytest.raises(Transient):
        await one.execute("INSERT INTO reconciler.pace (model) VALUES ('read only')")
    await one.execute("INSERT INTO reconciler.pace (model) VALUES ('again')")
    await one.close()


async def test_the_pool_does_without_prepared_statements_that_get_lost(database: Database) -> None:
    """F3: a pooler in transaction mode hands every statement to another backend."""
    assert not database.pooled
    one = Database(database._dsn, size=1)
    assert await one.value("SELECT $1::int", 7) == 7
    await one.execute("DEALLOCATE ALL")
    assert await one.value("SELECT $1::int", 7) == 7
    assert one.pooled
    await one.close()


async def test_a_transaction_that_fails_leaves_nothing_and_its_connection_is_used_again(database: Database) -> None:
    one = Database(database._dsn, size=1)

    async def breaks() -> None:
        async with one.transaction() as connection:
            await connection.execute("INSERT INTO reconciler.pace (model) VALUES ('half')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await one.run(breaks)
    async with one.transaction() as connection:
        await connection.execute("INSERT INTO reconciler.pace (model) VALUES ('whole')")
    assert [row["model"] for row in await one.fetch("SELECT model FROM reconciler.pace")] == ["whole"]
    await one.close()


async def sleeps(database: Database) -> None:
    await database.execute("SELECT pg_sleep(60)")


async def sleeps_in_a_transaction(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO reconciler.pace (model) VALUES ('half')")
        await connection.execute("SELECT pg_sleep(61)")


@pytest.mark.parametrize(("waits", "seconds"), [(sleeps, 60), (sleeps_in_a_transaction, 61)])
async def test_a_cancelled_statement_ends_at_once_even_where_the_server_is_silent(
    rows_dsn: str, waits: object, seconds: int
) -> None:
    loop = asyncio.get_running_loop()
    async with Proxy(rows_dsn) as proxy, asyncpg.create_pool(rows_dsn, min_size=1, max_size=1) as watch:
        database = Database(proxy.dsn, size=1)
        waiting = asyncio.create_task(waits(database))  # type: ignore[operator]
        running = f"SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep({seconds})'"
        await until(lambda: watch.fetchval(running), what="the statement runs")
        proxy.swallow()
        began = loop.time()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        await database.close()
        assert loop.time() - began < 5
        assert await watch.fetchval("SELECT count(*) FROM reconciler.pace") == 0


async def test_many_first_callers_open_one_pool(database: Database) -> None:
    await asyncio.gather(*(database.value("SELECT 1") for _ in range(20)))
    ours = "application_name = 'kie-reconciler' AND datname = current_database()"
    assert await database.value(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}") <= 3


async def test_a_closed_pool_stays_closed(database: Database) -> None:
    assert await database.value("SELECT 1") == 1
    await database.close()
    with pytest.raises(Transient):
        await database.value("SELECT 1")
    with pytest.raises(Transient):
        async with database.transaction():
            pass


async def test_no_connection_is_opened_after_close(rows_dsn: str) -> None:
    database = Database(elsewhere(rows_dsn, password="which-the-server-would-reject"))
    await database.close()
    with pytest.raises(Transient):
        await database.open()


async def test_a_connection_that_opens_after_close_is_cut(database: Database) -> None:
    opening = asyncio.create_task(database.open())
    begun = asyncio.Event()
    asyncio.get_running_loop().call_soon(begun.set)
    await begun.wait()
    await database.close()
    with pytest.raises(Transient):
        await opening


async def test_a_silent_network_costs_one_statement_and_not_one_for_each_connection(rows_dsn: str) -> None:
    async with Proxy(rows_dsn) as proxy:
        database = Database(proxy.dsn, size=3, patience=1.0)
        await asyncio.gather(*(database.value("SELECT pg_sleep(0.1)") for _ in range(3)))
        before = proxy.connections
        proxy.forget()
        with pytest.raises(Transient):
            await database.value("SELECT 1")
        assert await asyncio.gather(*(database.value("SELECT 1") for _ in range(3))) == [1, 1, 1]
        assert proxy.connections > before
        await database.close()


async def test_a_connection_that_is_cut_in_a_statement_raises_transient(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = PlainConnection._get_statement

    async def cut(self: PlainConnection, *args: object, **more: object) -> object:
        prepared = await prepare(self, *args, **more)
        self.terminate()
        return prepared

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(PlainConnection, "_get_statement", cut)
        with pytest.raises(Transient):
            await database.value("SELECT 1")
    assert await database.value("SELECT 1") == 1


async def test_a_pinned_pool_has_an_empty_search_path_and_another_keeps_its_own(rows_dsn: str) -> None:
    for pinned, path in ((True, ""), (False, '"$user", public')):
        database = Database(rows_dsn, size=1, pinned=pinned)
        assert await database.value("SHOW search_path") == path
        async with database.transaction() as connection:
            assert await connection.fetchval("SHOW search_path") == path
        await database.close()


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_pinned_pool_changes_no_session_of_a_pooler(rows_dsn: str, mode: str) -> None:
    async with pooler(rows_dsn, mode=mode) as address:
        database = Database(address, size=1, pinned=True)
        assert await database.value("SHOW search_path") == '"$user", public'
        await database.close()
