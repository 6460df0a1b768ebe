"""The check `search_path`: who can decide what a name without a schema means."""

from __future__ import annotations

import asyncpg

from reconciler.operations.doctor.search_path import SearchPath, judge_search_path, read_search_path
from reconciler.postgres.connection import QualifiedConnection
from testkit.standins.pooler import pooler
from tests.operations.doctor.installation import Installation


async def test_a_schema_of_it_in_which_every_role_may_create_is_told_with_the_sql_that_closes_it(
    own: Installation,
) -> None:
    await own.sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    check = (await own.examine())["search_path"]
    assert (check.word, check.do) == ("warn", "REVOKE CREATE ON SCHEMA public FROM PUBLIC;")
    await own.sql(check.do)
    assert (await own.examine())["search_path"].word == "ok"


async def test_a_schema_before_postgresql_s_own_is_told(own: Installation) -> None:
    await own.sql("""DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$""")
    check = (await own.examine())["search_path"]
    assert (check.word, check.says) == ("warn", "the search_path looks into public before pg_catalog")


async def test_a_search_path_that_another_program_left_in_the_pooler_is_told(own: Installation) -> None:
    async with pooler(own.dsn, mode="transaction") as address:
        other = await asyncpg.connect(address, statement_cache_size=0)
        await other.execute("SET search_path = reconciler")
        await other.close()
        check = (await own.examine(DATABASE_URL=address))["search_path"]
    assert check.word == "warn"
    assert check.says.startswith('the search_path is reconciler, and sessions begin with "$user", public')


async def test_the_check_looks_at_the_session_as_it_is(own: Installation) -> None:
    connection = await asyncpg.connect(own.dsn, connection_class=QualifiedConnection)
    found = await read_search_path(connection)
    await connection.close()
    assert found == SearchPath('"$user", public', '"$user", public', ("pg_catalog", "public"), ())
    assert judge_search_path(found).word == "ok"
