"""What `doctor` says about missing rights of the login, and about access that is open to strangers.

Every fault is made in a transaction that is rolled back, so that one database serves all tests.
"""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import pytest

from reconciler.operations.doctor import Check
from reconciler.operations.doctor.privileges import (
    judge_privileges,
    judge_row_security,
    read_open_access,
    read_rights,
)
from testkit.tables import member, supabase_like
from tests.operations.doctor.installation import Installation, not_ok, run


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("REVOKE SELECT ON public.generations FROM reconciler", "FAIL"),
        ("REVOKE UPDATE (asset_url) ON public.generations FROM reconciler", "FAIL"),
        ("REVOKE INSERT ON public.generations FROM reconciler", "warn"),
        ("DROP FUNCTION reconciler.delete_failed; REVOKE DELETE ON public.generations FROM reconciler", "warn"),
        ("REVOKE UPDATE ON reconciler.work FROM reconciler", "FAIL"),
        ("REVOKE SELECT ON reconciler.schema_version FROM reconciler", "FAIL"),
        ("REVOKE SELECT ON reconciler.pace FROM reconciler", "FAIL"),
        ("REVOKE EXECUTE ON FUNCTION reconciler.allowed_statuses() FROM reconciler", "FAIL"),
        ("REVOKE USAGE ON SCHEMA reconciler FROM reconciler", "FAIL"),
        ("DROP POLICY reconciler_select ON public.generations", "FAIL"),
        ("DROP POLICY reconciler_update ON public.generations", "FAIL"),
        ("DROP POLICY reconciler_insert ON public.generations", "warn"),
        ("DROP FUNCTION reconciler.delete_failed; DROP POLICY reconciler_delete ON public.generations", "warn"),
    ],
)
async def test_every_missing_right_that_run_uses_is_found_and_the_sql_grants_it(
    owner: Any, fault: str, word: str
) -> None:
    assert (await as_daemon(owner)).word == "ok"
    await owner.execute(fault)
    check = await as_daemon(owner)
    assert check.word == word
    await run(owner, check.do)
    assert (await as_daemon(owner)).word == "ok"


async def as_daemon(owner: Any, *, deletes: bool = True) -> Check:
    """Check the rights of the role that a daemon's login belongs to."""
    await owner.execute("SET LOCAL ROLE reconciler")
    check = judge_privileges(await read_rights(owner, deletes=deletes))
    await owner.execute("RESET ROLE")
    return check


async def row_security(owner: Any) -> Check:
    return judge_row_security(await read_open_access(owner))


async def test_the_right_to_delete_is_not_needed_where_nothing_is_deleted(owner: Any) -> None:
    await owner.execute("DROP FUNCTION reconciler.delete_failed; REVOKE DELETE ON public.generations FROM reconciler")
    assert (await as_daemon(owner, deletes=False)).word == "ok"


async def test_a_login_without_any_right_gets_the_sql_for_all_of_them(shared: Installation) -> None:
    async with member(shared.dsn) as login:
        checks = await shared.examine(DATABASE_URL=login)
        assert (checks["schema"].word, checks["privileges"].word) == ("FAIL", "FAIL")
        grants = checks["privileges"].do
        keeper = await asyncpg.connect(shared.dsn)
        try:
            await run(keeper, grants)
            assert not_ok(await shared.examine(DATABASE_URL=login)) == {}
        finally:
            for policy in re.findall(r"CREATE POLICY (\S+)", grants):
                await keeper.execute(f"DROP POLICY {policy} ON public.generations")
            await keeper.close()


OPEN = "CREATE POLICY loose ON public.generations FOR {} {}"


@pytest.mark.parametrize(
    ("fault", "word", "says"),
    [
        (OPEN.format("UPDATE", "USING (true)"), "FAIL", "UPDATE by anon"),
        (OPEN.format("INSERT", "TO anon WITH CHECK (true)"), "FAIL", "INSERT by anon"),
        (OPEN.format("ALL", "TO authenticated USING (true)"), "FAIL", "DELETE by authenticated"),
        (OPEN.format("SELECT", "USING (true)"), "warn", "SELECT by anon"),
        ("ALTER TABLE public.generations DISABLE ROW LEVEL SECURITY", "FAIL", "INSERT by anon"),
    ],
)
async def test_access_that_is_open_to_strangers_is_named_and_the_sql_closes_it(
    owner: Any, fault: str, word: str, says: str
) -> None:
    await like_a_supabase_project(owner)
    await owner.execute(fault)
    check = await row_security(owner)
    assert (check.word, says in check.says) == (word, True)
    await run(owner, check.do)
    assert (await row_security(owner)).word == "ok"
    assert (await as_daemon(owner)).word == "ok"


async def test_access_that_a_restrictive_policy_or_a_missing_grant_closes_is_not_open(owner: Any) -> None:
    await like_a_supabase_project(owner)
    assert "authenticated" in (await row_security(owner)).says
    await owner.execute(OPEN.format("UPDATE", "USING (true)"))
    await owner.execute(
        "CREATE POLICY shut ON public.generations AS RESTRICTIVE FOR UPDATE TO anon, authenticated USING (false)"
    )
    assert (await row_security(owner)).word == "ok"
    await owner.execute(
        "DROP POLICY shut ON public.generations; REVOKE ALL ON public.generations FROM anon, authenticated"
    )
    assert (await row_security(owner)).word == "ok"


async def like_a_supabase_project(owner: Any) -> None:
    """Create the roles of a Supabase project, with the rights that they have by default."""
    await supabase_like(owner)
    await owner.execute("GRANT ALL ON public.generations TO anon, authenticated, service_role")
