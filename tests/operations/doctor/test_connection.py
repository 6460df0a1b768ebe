"""What `doctor` says of the way to the database: away, refused, through a pooler, deaf, read-only, other clocks."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from reconciler.operations.doctor import NAMES, NotKnown, clock
from reconciler.operations.doctor import database as judge
from reconciler.operations.doctor.database import DatabaseConnection, DatabaseServer
from reconciler.operations.doctor.facts import connection as lines
from testkit.standins.pooler import LIMITS, pooler
from testkit.waiting import until
from tests.operations.doctor.rig import Surgery, amiss

OF_DATABASE = NAMES[NAMES.index("database") + 1 : NAMES.index("spool")]


def refused(dsn: str) -> str:
    """The same server with another password, which must not be told."""
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"postgres:{quote('not-the-word')}@{parts.hostname}:{parts.port}").geturl()


@pytest.mark.parametrize("kind", ["away", "refused"])
async def test_a_database_that_cannot_be_reached_is_one_fail_and_the_rest_is_not_looked_at(
    shared: Surgery, kind: str
) -> None:
    dsn = "postgresql://me:not-the-word@127.0.0.1:1/db" if kind == "away" else refused(shared.dsn)
    checks = await shared.look(DATABASE_URL=dsn)
    assert checks["database"].word == "FAIL"
    assert {name: checks[name].says for name in OF_DATABASE} == dict.fromkeys(
        OF_DATABASE, "not looked at: the database cannot be used"
    )
    assert checks["upload"].word == checks["kie_keys"].word == "ok"
    assert checks["kie_models"].says.startswith("not looked at: ")
    assert "not-the-word" not in repr(checks)


async def test_a_pooler_in_transaction_mode_is_told_from_a_direct_line(shared: Surgery) -> None:
    assert (await shared.look())["connection"].says == "direct"
    async with pooler(shared.dsn, mode="transaction") as address:
        checks = await shared.look(DATABASE_URL=address)
    assert amiss(checks) == {"connection": "warn", "listen": "warn"}
    assert "transaction mode" in checks["connection"].says
    assert "6543" in checks["connection"].do


async def test_a_pooler_in_session_mode_hears_notifications(shared: Surgery) -> None:
    async with pooler(shared.dsn, mode="session") as address:
        checks = await shared.look(DATABASE_URL=address)
    assert amiss(checks) == {}
    assert checks["connection"].says == "through a pooler in session mode"


async def test_a_pooler_that_refuses_our_limits_is_told_with_the_line_that_mends_it(shared: Surgery) -> None:
    async with pooler(shared.dsn, mode="session", ignored="extra_float_digits") as address:
        check = (await shared.look(DATABASE_URL=address))["database"]
    assert check.word == "FAIL"
    assert check.do == f"pgbouncer.ini: ignore_startup_parameters = {LIMITS}"


async def test_a_parameter_that_no_server_knows_is_told_and_not_the_host_suspected(shared: Surgery) -> None:
    check = (await shared.look(DATABASE_URL=f"{shared.dsn}?pgbouncer=true"))["database"]
    assert check.word == "FAIL"
    assert "pgbouncer" in check.says
    assert check.do == "remove that parameter from it"


async def test_a_line_that_loses_notifications_is_deaf(shared: Surgery) -> None:
    checks = {
        line: judge.listen(line).word
        for line in (DatabaseConnection(False, False, None), DatabaseConnection(True, True, None))
    }
    assert set(checks.values()) == {"warn"}
    one, other = await asyncpg.connect(shared.dsn), await asyncpg.connect(shared.dsn)
    transaction = one.transaction()
    await transaction.start()
    # PostgreSQL gives notifications out between transactions only: inside one, nothing is heard.
    assert await lines._heard(one, other, 0.1) is None
    await transaction.rollback()
    assert await lines._heard(one, other, 10.0) is not None
    await one.close()
    await other.close()


async def test_a_connection_that_is_lost_after_the_first_look_spoils_no_other_look(shared: Surgery) -> None:
    async def one_only() -> Any:
        return await asyncpg.connect(shared.dsn)

    keeper = await one_only()
    database = urlsplit(shared.dsn).path[1:]
    await keeper.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 1")
    role = f"kr_single_{database[-8:]}"
    await keeper.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'single' IN ROLE reconciler")
    try:
        parts = urlsplit(shared.dsn)
        dsn = parts._replace(netloc=f"{role}:single@{parts.hostname}:{parts.port}").geturl()
        await keeper.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1; ALTER DATABASE {database} CONNECTION LIMIT -1")
        checks = await shared.look(DATABASE_URL=dsn)
        assert checks["connection"].says.startswith("not known: ")
        assert checks["listen"].says.startswith("not looked at: ")
        assert checks["triggers"].word == "ok"
    finally:
        await until(lambda: gone(keeper, role), what="the end of the other session")
        await keeper.execute(f"DROP ROLE {role}")
        await keeper.close()


async def gone(keeper: Any, role: str) -> bool:
    return not await keeper.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role)


async def test_a_clock_that_differs_from_the_databases_and_kies_is_told(shared: Surgery) -> None:
    checks = await shared.look(now=lambda: time.time() + 60)
    assert amiss(checks) == {"database_clock": "warn", "kie_clock": "warn"}
    assert checks["database_clock"].says.startswith("this machine's clock is ")
    assert checks["database_clock"].says.endswith(" s ahead of the database's")
    assert "NTP" in checks["kie_clock"].do


def test_a_clock_is_judged_by_its_distance() -> None:
    assert [clock("kie_clock", "KIE's", ahead).word for ahead in (4.9, -4.9, 5.0, -299.0, 300.0)] == [
        "ok", "ok", "warn", "warn", "FAIL",
    ]  # fmt: skip


async def test_a_database_that_takes_no_writes_fails(well: Surgery) -> None:
    await well.sql(f"ALTER DATABASE {urlsplit(well.dsn).path[1:]} SET default_transaction_read_only = on")
    assert (await well.look())["database"].word == "FAIL"


@pytest.mark.parametrize(("version", "word"), [((13, 18), "FAIL"), ((14, 0), "ok"), ((18, 1), "ok")])
def test_only_what_is_older_than_fourteen_is_too_old(version: tuple[int, int], word: str) -> None:
    assert judge.database(DatabaseServer(version, True, 0.0)).word == word


def test_what_could_not_be_asked_is_told_as_not_looked_at() -> None:
    nothing = NotKnown("no answer within 10 s")
    for judged in (judge.listen(nothing), judge.replicas(nothing, "1"), judge.realtime(nothing)):
        assert (judged.word, judged.says[:15]) == ("warn", "not looked at: ")
