"""A login that cannot see the rows must hear it at start: under row security they would just vanish."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from reconciler.edges.migrate import migrate
from reconciler.edges.schema import introspect
from reconciler.errors import Config
from tests.standins.tables import member, older_table, supabase_like

GRANTED = "GRANT SELECT, INSERT, UPDATE, DELETE ON public.generations TO {0};"
SECURED = "ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY;"


@pytest.fixture
async def owner(empty_dsn: str) -> AsyncIterator[Any]:
    """The superuser, who has made an older table."""
    connection = await asyncpg.connect(empty_dsn)
    await older_table(connection)
    yield connection
    await connection.close()


async def told(address: str) -> str | None:
    """What a login hears at its start; None: it may run, and sees every row."""
    connection = await asyncpg.connect(address)
    try:
        await introspect(connection)
        assert await connection.fetchval("SELECT count(*) FROM public.generations") == 9
    except Config as error:
        return f"{error}: {error.hint}"
    else:
        return None
    finally:
        await connection.close()


def name(address: str) -> str:
    return address.partition("//")[2].partition(":")[0]


def sql(words: str | None) -> str:
    """The statements in what was told."""
    return " ".join(re.findall(r"(?:GRANT|CREATE POLICY) [^;]*;", words or ""))


async def test_the_tables_owner_sees_everything(empty_dsn: str, owner: Any) -> None:
    await owner.execute(SECURED)
    assert await told(empty_dsn) is None


async def test_a_login_without_rights_hears_the_grants_it_needs(empty_dsn: str, owner: Any) -> None:
    async with member(empty_dsn) as address:
        words = await told(address)
        assert "GRANT SELECT" in sql(words)
        assert "GRANT UPDATE" in sql(words)
        await owner.execute(sql(words))
        assert await told(address) is None


async def test_a_login_that_may_only_read_hears_what_it_must_write(empty_dsn: str, owner: Any) -> None:
    async with member(empty_dsn) as address:
        await owner.execute(f"GRANT SELECT ON public.generations TO {name(address)}")
        words = await told(address)
        await owner.execute(sql(words))
        assert await told(address) is None
        allowed = await owner.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'public.generations'::regclass AND attnum > 0"
            " AND has_column_privilege($1, attrelid, attnum, 'UPDATE')",
            name(address),
        )
    assert {row[0] for row in allowed} == {"status", "task_id", "result_urls", "asset_url", "error", "updated_at"}


async def test_without_row_security_no_policy_is_needed(empty_dsn: str, owner: Any) -> None:
    async with member(empty_dsn) as address:
        await owner.execute(GRANTED.format(name(address)))
        assert await told(address) is None


async def test_a_login_that_no_policy_names_hears_the_policies_it_needs(empty_dsn: str, owner: Any) -> None:
    async with member(empty_dsn) as address:
        await owner.execute(GRANTED.format(name(address)) + SECURED)
        words = await told(address)
        assert "row security" in (words or "")
        await owner.execute(sql(words))
        assert await told(address) is None


@pytest.mark.parametrize(
    ("policies", "missing"),
    [
        ("FOR SELECT TO {0} USING (true)", {"UPDATE"}),
        ("FOR UPDATE TO {0} USING (true)", {"SELECT"}),
        ("FOR ALL TO {0} USING (true)", set()),
        ("FOR ALL USING (true)", set()),
        ("FOR ALL USING (user_id::text = current_setting('request.jwt.claim.sub', true))", {"SELECT", "UPDATE"}),
        ("AS RESTRICTIVE FOR ALL TO {0} USING (true)", {"SELECT", "UPDATE"}),
        ("FOR INSERT TO {0} WITH CHECK (true)", {"SELECT", "UPDATE"}),
        ("FOR ALL TO pg_monitor USING (true)", {"SELECT", "UPDATE"}),
    ],
)
async def test_only_policies_that_show_us_the_rows_count(
    empty_dsn: str, owner: Any, policies: str, missing: set[str]
) -> None:
    async with member(empty_dsn) as address:
        login = name(address)
        await owner.execute(GRANTED.format(login) + SECURED)
        await owner.execute(f"CREATE POLICY theirs ON public.generations {policies.format(login)}")
        assert set(re.findall(r"FOR (\w+) TO", sql(await told(address)))) == missing


async def test_a_member_of_the_role_reconciler_sees_every_row(empty_dsn: str, owner: Any) -> None:
    await owner.execute(SECURED)
    await migrate(empty_dsn)
    async with member(empty_dsn, "reconciler") as address:
        assert await told(address) is None


async def test_row_security_turned_on_later_is_noticed_and_mended_by_migrate(empty_dsn: str, owner: Any) -> None:
    await migrate(empty_dsn)
    await owner.execute(SECURED)
    async with member(empty_dsn, "reconciler") as address:
        assert "row security" in (await told(address) or "")
        assert await migrate(empty_dsn) == ["060_role.sql"]
        assert await told(address) is None


async def test_a_member_of_the_service_role_does_not_inherit_its_sight(empty_dsn: str, owner: Any) -> None:
    """BYPASSRLS is an attribute, and attributes are not inherited."""
    await supabase_like(owner)
    await owner.execute(GRANTED.format("service_role") + SECURED)
    async with member(empty_dsn, "service_role") as address:
        assert "row security" in (await told(address) or "")


async def test_an_owner_whom_row_security_is_forced_upon_needs_policies_too(empty_dsn: str, owner: Any) -> None:
    async with member(empty_dsn) as address:
        await owner.execute(f"ALTER TABLE public.generations OWNER TO {name(address)}; {SECURED}")
        assert await told(address) is None
        await owner.execute("ALTER TABLE public.generations FORCE ROW LEVEL SECURITY")
        assert "row security" in (await told(address) or "")
