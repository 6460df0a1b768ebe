"""What `doctor` says about the database server: away, refusing, behind a pooler, read-only, with another clock."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from reconciler.operations.doctor import NAMES, NotKnown, database, judge_clock, judged
from reconciler.operations.doctor.activity import judge_replicas
from reconciler.operations.doctor.database import DatabaseConnection, DatabaseServer
from testkit.standins.pooler import LIMITS, pooler
from testkit.waiting import until
from tests.operations.doctor.installation import Installation, not_ok

OTHER_CHECKS = NAMES[NAMES.index("database") + 1 : NAMES.index("spool")]


def with_wrong_password(dsn: str) -> str:
    """The same server with another password, which must not be printed."""
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"postgres:{quote('wrong-password')}@{parts.hostname}:{parts.port}").geturl()


@pytest.mark.parametrize("kind", ["away", "refused"])
async def test_a_database_that_cannot_be_reached_fails_and_its_other_checks_are_not_looked_at(
    shared: Installation, kind: str
) -> None:
    dsn = "postgresql://me:wrong-password@127.0.0.1:1/db" if kind == "away" else with_wrong_password(shared.dsn)
    checks = await shared.examine(DATABASE_URL=dsn)
    assert checks["database"].word == "FAIL"
    assert {name: checks[name].says for name in OTHER_CHECKS} == dict.fromkeys(
        OTHER_CHECKS, "not looked at: the database cannot be used"
    )
    assert checks["upload"].word == checks["kie_keys"].word == "ok"
    assert checks["kie_models"].says.startswith("not looked at: ")
    assert "wrong-password" not in repr(checks)


async def test_a_pooler_in_transaction_mode_is_told_from_a_direct_connection(shared: Installation) -> None:
    assert (await shared.examine())["connection"].says == "direct"
    async with pooler(shared.dsn, mode="transaction") as address:
        checks = await shared.examine(DATABASE_URL=address)
    assert not_ok(checks) == {"connection": "warn", "listen": "warn"}
    assert "transaction mode" in checks["connection"].says
    assert "6543" in checks["connection"].do


async def test_notifications_arrive_through_a_pooler_in_session_mode(shared: Installation) -> None:
    async with pooler(shared.dsn, mode="session") as address:
        checks = await shared.examine(DATABASE_URL=address)
    assert not_ok(checks) == {}
    assert checks["connection"].says == "through a pooler in session mode"


async def test_a_pooler_that_refuses_our_session_settings_fails_with_the_line_for_its_configuration(
    shared: Installation,
) -> None:
    async with pooler(shared.dsn, mode="session", ignored="extra_float_digits") as address:
        check = (await shared.examine(DATABASE_URL=address))["database"]
    assert check.word == "FAIL"
    assert check.do == f"pgbouncer.ini: ignore_startup_parameters = {LIMITS}"


async def test_a_parameter_that_no_server_knows_is_named_and_the_host_is_not_blamed(shared: Installation) -> None:
    check = (await shared.examine(DATABASE_URL=f"{shared.dsn}?pgbouncer=true"))["database"]
    assert check.word == "FAIL"
    assert "pgbouncer" in check.says
    assert check.do == "remove that parameter from it"


async def test_a_connection_on_which_no_notification_arrives_is_a_warning(shared: Installation) -> None:
    connections = (DatabaseConnection(False, False, None), DatabaseConnection(True, True, None))
    assert [database.judge_listen(connection).word for connection in connections] == ["warn", "warn"]
    one, other = await asyncpg.connect(shared.dsn), await asyncpg.connect(shared.dsn)
    transaction = one.transaction()
    await transaction.start()
    # PostgreSQL delivers notifications only between transactions: inside one, none arrives.
    assert await database._notify(one, other, 0.1) is None
    await transaction.rollback()
    assert await database._notify(one, other, 10.0) is not None
    of_another_doctor = SimpleNamespace(execute=lambda _: other.execute(f"SELECT pg_notify('{database.CHANNEL}', 'x')"))
    assert await database._notify(one, of_another_doctor, 0.1) is None
    await one.close()
    await other.close()


async def test_without_a_second_connection_the_other_checks_are_still_made(shared: Installation) -> None:
    keeper = await asyncpg.connect(shared.dsn)
    role = f"kr_single_{urlsplit(shared.dsn).path[-8:]}"
    await keeper.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'single' IN ROLE reconciler")
    try:
        parts = urlsplit(shared.dsn)
        dsn = parts._replace(netloc=f"{role}:single@{parts.hostname}:{parts.port}").geturl()
        await keeper.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
        checks = await shared.examine(DATABASE_URL=dsn)
        assert checks["connection"].says.startswith("not known: ")
        assert checks["listen"].says.startswith("not looked at: ")
        assert checks["triggers"].word == "ok"
    finally:
        await until(lambda: gone(keeper, role), what="the end of the other session")
        await keeper.execute(f"DROP ROLE {role}")
        await keeper.close()


async def gone(keeper: Any, role: str) -> bool:
    return not await keeper.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role)


async def test_a_clock_that_differs_from_those_of_database_and_kie_is_a_warning(shared: Installation) -> None:
    checks = await shared.examine(now=lambda: time.time() + 60)
    assert not_ok(checks) == {"database_clock": "warn", "kie_clock": "warn"}
    assert checks["database_clock"].says.startswith("this machine's clock is ")
    assert checks["database_clock"].says.endswith(" s ahead of the database's")
    assert "NTP" in checks["kie_clock"].do


@pytest.mark.parametrize(("hours", "word"), [(None, "ok"), (3, "warn"), (-25, "warn"), (30, "ok")])
async def test_n4_a_step_of_the_databases_clock_is_a_warning_for_a_day(
    shared: Installation, hours: int | None, word: str
) -> None:
    connection = await asyncpg.connect(shared.dsn)
    await connection.execute(
        "INSERT INTO reconciler.clock (seen_at, stepped_at) VALUES (now(), now() - $1 * interval '1 hour')"
        " ON CONFLICT (single) DO UPDATE SET stepped_at = excluded.stepped_at", hours,
    )  # fmt: skip
    check = (await shared.examine())["database_clock"]
    await connection.execute("UPDATE reconciler.clock SET stepped_at = NULL")
    await connection.close()
    assert check.word == word
    assert ("clock.stepped" in check.do) is (word == "warn")


def test_a_clock_is_judged_by_its_distance() -> None:
    assert [judge_clock("kie_clock", "KIE's", ahead).word for ahead in (4.9, -4.9, 5.0, -299.0, 300.0)] == [
        "ok", "ok", "warn", "warn", "FAIL",
    ]  # fmt: skip


async def test_a_read_only_database_fails(own: Installation) -> None:
    await own.sql(f"ALTER DATABASE {urlsplit(own.dsn).path[1:]} SET default_transaction_read_only = on")
    assert (await own.examine())["database"].word == "FAIL"


@pytest.mark.parametrize(("version", "word"), [((13, 18), "FAIL"), ((14, 0), "ok"), ((18, 1), "ok")])
def test_only_a_server_older_than_14_is_too_old(version: tuple[int, int], word: str) -> None:
    assert database.judge_server(DatabaseServer(version, True, 0.0)).word == word


def test_facts_that_could_not_be_read_are_not_looked_at() -> None:
    nothing = NotKnown("no answer within 10 s")
    for check in (
        database.judge_listen(nothing),
        judged("replicas", nothing, lambda versions: judge_replicas(versions, "1", 0)),
        judged("realtime", nothing, database.judge_realtime),
    ):
        assert (check.word, check.says[:15]) == ("warn", "not looked at: ")
