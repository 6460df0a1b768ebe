"""A login that cannot see the rows gets an error at start: under row security they would silently vanish."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from reconciler.errors import Config
from reconciler.postgres.migrations.migrate import migrate
from reconciler.postgres.schema import introspect
from testkit.tables import member, older_table

LOGIN = "daemon_of_this_test"
GRANTED = f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.generations TO {LOGIN};"
SECURED = "ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY;"


@pytest.fixture
async def owner(postgres: Any) -> AsyncIterator[Any]:
    """The superuser in a transaction that is rolled back, with an older table and a login with few rights."""
    connection = await asyncpg.connect(postgres.dsn())
    transaction = connection.transaction()
    await transaction.start()
    await older_table(connection)
    await connection.execute(f"CREATE ROLE {LOGIN}")
    yield connection
    await transaction.rollback()
    await connection.close()


async def refusal(owner: Any, login: str = LOGIN) -> str | None:
    """Return the error of a login at its start, None where it may run and sees every row. `NONE` is the owner."""
    await owner.execute(f"SET LOCAL ROLE {login}")
    try:
        await introspect(owner)
        assert await owner.fetchval("SELECT count(*) FROM public.generations") == 9
    except Config as error:
        return f"{error}: {error.hint}"
    else:
        return None
    finally:
        await owner.execute("RESET ROLE")


def sql(words: str | None) -> str:
    """Return the statements in the message."""
    return " ".join(re.findall(r"(?:GRANT|CREATE POLICY) [^;]*;", words or ""))


async def test_the_tables_owner_sees_everything(owner: Any) -> None:
    await owner.execute(SECURED)
    assert await refusal(owner, "NONE") is None


async def test_a_login_without_rights_is_given_the_grants_it_needs(owner: Any) -> None:
    words = await refusal(owner)
    assert "GRANT SELECT" in sql(words)
    assert "GRANT UPDATE" in sql(words)
    await owner.execute(sql(words))
    assert await refusal(owner) is None


async def test_a_login_that_may_only_read_is_given_the_grants_to_write(owner: Any) -> None:
    await owner.execute(f"GRANT SELECT ON public.generations TO {LOGIN}")
    await owner.execute(sql(await refusal(owner)))
    assert await refusal(owner) is None
    allowed = await owner.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'public.generations'::regclass AND attnum > 0"
        " AND has_column_privilege($1, attrelid, attnum, 'UPDATE')",
        LOGIN,
    )
    assert {row[0] for row in allowed} == {"status", "task_id", "result_urls", "asset_url", "error", "updated_at"}


async def test_without_row_security_no_policy_is_needed(owner: Any) -> None:
    await owner.execute(GRANTED)
    assert await refusal(owner) is None


async def test_a_login_that_no_policy_names_is_given_the_policies_it_needs(owner: Any) -> None:
    await owner.execute(GRANTED + SECURED)
    words = await refusal(owner)
    assert "row security" in (words or "")
    await owner.execute(sql(words))
    assert await refusal(owner) is None


@pytest.mark.parametrize(
    ("policy", "missing"),
    [
        (f"FOR SELECT TO {LOGIN} USING (true)", {"UPDATE"}),
        (f"FOR UPDATE TO {LOGIN} USING (true)", {"SELECT"}),
        (f"FOR ALL TO {LOGIN} USING (true)", set()),
        (f"FOR ALL TO {LOGIN} USING (status <> 'melted')", set()),
        ("FOR ALL USING (true)", set()),
        ("FOR ALL USING (user_id::text = current_setting('request.jwt.claim.sub', true))", {"SELECT", "UPDATE"}),
        (f"AS RESTRICTIVE FOR ALL TO {LOGIN} USING (true)", {"SELECT", "UPDATE"}),
        (f"FOR INSERT TO {LOGIN} WITH CHECK (true)", {"SELECT", "UPDATE"}),
        ("FOR ALL TO pg_monitor USING (true)", {"SELECT", "UPDATE"}),
    ],
)
async def test_only_policies_that_show_the_rows_to_us_count(owner: Any, policy: str, missing: set[str]) -> None:
    await owner.execute(f"{GRANTED}{SECURED}CREATE POLICY theirs ON public.generations {policy}")
    assert set(re.findall(r"FOR (\w+) TO", sql(await refusal(owner)))) == missing


async def test_a_policy_for_a_role_counts_for_its_members(owner: Any) -> None:
    await owner.execute(
        f"{GRANTED}{SECURED}CREATE POLICY theirs ON public.generations FOR ALL TO pg_monitor USING (true);"
        f"GRANT pg_monitor TO {LOGIN}"
    )
    assert await refusal(owner) is None


async def test_a_member_of_the_service_role_does_not_inherit_its_bypass(owner: Any) -> None:
    """BYPASSRLS is an attribute, and attributes are not inherited."""
    await owner.execute(f"{GRANTED}{SECURED}CREATE ROLE sighted BYPASSRLS; GRANT sighted TO {LOGIN}")
    await owner.execute("GRANT ALL ON public.generations TO sighted")
    assert await refusal(owner, "sighted") is None
    assert "row security" in (await refusal(owner) or "")


async def test_an_owner_under_forced_row_security_needs_policies_too(owner: Any) -> None:
    await owner.execute(f"GRANT CREATE ON SCHEMA public TO {LOGIN}; ALTER TABLE public.generations OWNER TO {LOGIN}")
    await owner.execute(SECURED)
    assert await refusal(owner) is None
    await owner.execute("ALTER TABLE public.generations FORCE ROW LEVEL SECURITY")
    assert "row security" in (await refusal(owner) or "")


async def test_row_security_turned_on_later_is_noticed_and_mended_by_migrate(empty_dsn: str) -> None:
    owner = await asyncpg.connect(empty_dsn)
    await older_table(owner)
    await migrate(empty_dsn)
    await owner.execute(SECURED)
    async with member(empty_dsn, "reconciler") as address:
        daemon = await asyncpg.connect(address)
        with pytest.raises(Config, match="row security"):
            await introspect(daemon)
        assert await migrate(empty_dsn) == ["060_role.sql"]
        await introspect(daemon)
        assert await daemon.fetchval("SELECT count(*) FROM public.generations") == 9
        await daemon.close()
    await owner.close()
