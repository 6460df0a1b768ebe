"""What `doctor` says about policies that let strangers change results in storage; the SQL that it gives closes them.

Every policy is made in a transaction that is rolled back, so that one database serves all tests.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from reconciler.operations.doctor import Check
from reconciler.operations.doctor.policy_rules import allows, concerns_only
from reconciler.operations.doctor.storage_policies import (
    ObjectAccess,
    StoragePolicies,
    judge_storage_policies,
    read_storage_policies,
)
from testkit.tables import USER, supabase_like
from tests.operations.doctor.installation import run

OURS = "bucket_id = 'generations'"
SHOPS = f'CREATE POLICY "Service role full access" ON storage.objects FOR ALL TO public USING ({OURS})'
"""The policy of the shop's own migration (N13)."""


async def check(owner: Any, **more: Any) -> Check:
    return judge_storage_policies(
        await read_storage_policies(owner), **{"bucket": "generations", "local": False, **more}
    )


async def project(owner: Any) -> None:
    """A Supabase project with one result in our bucket and one picture in another."""
    await supabase_like(owner)
    await owner.execute(
        "INSERT INTO storage.buckets (id, name, public) VALUES ('generations', 'generations', true),"
        " ('avatars', 'avatars', true);"
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('generations', 'u/image/a_0.png'), ('avatars', 'me.png')"
    )


async def changed(owner: Any, role: str, bucket: str) -> dict[str, bool]:
    """Which commands work for this role on every object of the bucket; nothing stays changed."""
    works = {}
    for command, statement in {
        "INSERT": f"INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', 'u/image/b_0.png')",
        "UPDATE": f"UPDATE storage.objects SET version = 'other' WHERE bucket_id = '{bucket}'",
        "DELETE": f"DELETE FROM storage.objects WHERE bucket_id = '{bucket}'",
    }.items():
        inner = owner.transaction()
        await inner.start()
        try:
            await owner.execute(f"SET LOCAL ROLE {role}")
            await owner.execute(f"SET LOCAL request.jwt.claim.sub = '{USER if role == 'authenticated' else ''}'")
            works[command] = (await owner.execute(statement)).endswith(" 1")
        except asyncpg.InsufficientPrivilegeError:
            # Row security refuses an INSERT with an error, and hides rows from the other commands.
            works[command] = False
        finally:
            await inner.rollback()
    return works


NOTHING = dict.fromkeys(("INSERT", "UPDATE", "DELETE"), False)
EVERYTHING = dict.fromkeys(("INSERT", "UPDATE", "DELETE"), True)


async def test_the_shops_open_policy_is_a_warning_and_its_sql_closes_the_bucket_N13(owner: Any) -> None:
    await project(owner)
    await owner.execute(SHOPS)
    # Reading needs no policy in a public bucket; an UPDATE or DELETE through SQL must see the row.
    assert await changed(owner, "anon", "generations") == EVERYTHING
    found = await check(owner)
    assert found.word == "warn"
    assert '"Service role full access"' in found.says
    assert "DELETE by anon and authenticated" in found.says
    await run(owner, found.do)
    assert (await check(owner)).word == "ok"
    for role in ("anon", "authenticated"):
        assert await changed(owner, role, "generations") == NOTHING
    assert await changed(owner, "service_role", "generations") == EVERYTHING


@pytest.mark.parametrize(
    ("policy", "role"),
    [
        ("FOR ALL TO public USING (true)", "anon"),
        ("FOR ALL USING (bucket_id IN ('avatars', 'generations'))", "anon"),
        ("FOR ALL TO authenticated USING (auth.uid() IS NOT NULL)", "authenticated"),
    ],
)
async def test_a_policy_that_also_opens_another_bucket_keeps_it_open(owner: Any, policy: str, role: str) -> None:
    await project(owner)
    await owner.execute(f"CREATE POLICY wide ON storage.objects {policy}")
    assert await changed(owner, role, "generations") == EVERYTHING
    found = await check(owner)
    assert found.word == "warn"
    await run(owner, found.do)
    assert (await check(owner)).word == "ok"
    assert await changed(owner, role, "generations") == NOTHING
    assert await changed(owner, role, "avatars") == EVERYTHING


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (f"FOR DELETE TO anon USING ({OURS})", "DELETE by anon,"),
        (f"FOR INSERT TO public WITH CHECK ({OURS})", "INSERT by anon and authenticated,"),
        (f"FOR UPDATE TO authenticated USING ({OURS})", "UPDATE by authenticated,"),
        (f"FOR DELETE USING ({OURS} AND (SELECT auth.uid()) IS NOT NULL)", "DELETE by authenticated,"),
    ],
)
async def test_each_command_that_strangers_may_use_is_named(owner: Any, policy: str, says: str) -> None:
    await project(owner)
    await owner.execute(f"CREATE POLICY loose ON storage.objects {policy}")
    found = await check(owner)
    assert (found.word, says in found.says) == ("warn", True)
    await run(owner, found.do)
    assert (await check(owner)).word == "ok"


@pytest.mark.parametrize(
    "policy",
    [
        "FOR ALL USING (bucket_id = 'avatars')",
        f"FOR ALL TO service_role USING ({OURS})",
        f"FOR SELECT USING ({OURS})",
        f"FOR ALL TO authenticated USING ({OURS} AND owner_id = auth.uid()::text)",
        f"FOR ALL USING ({OURS} AND current_setting('request.jwt.claim.role', true) = 'service_role')",
        f"FOR ALL TO anon USING ({OURS} AND auth.uid() IS NOT NULL)",
    ],
)
async def test_a_policy_that_limits_who_changes_what_is_ok(owner: Any, policy: str) -> None:
    await project(owner)
    await owner.execute(f"CREATE POLICY narrow ON storage.objects {policy}")
    assert (await check(owner)).word == "ok"


async def test_a_restrictive_policy_closes_what_another_one_opens(owner: Any) -> None:
    await project(owner)
    await owner.execute(SHOPS)
    await owner.execute("CREATE POLICY others ON storage.objects AS RESTRICTIVE FOR ALL USING (bucket_id <> 'avatars')")
    assert (await check(owner)).word == "warn"
    await owner.execute(
        "CREATE POLICY shut ON storage.objects AS RESTRICTIVE FOR ALL USING (bucket_id <> 'generations')"
    )
    assert (await check(owner)).word == "ok"


def test_without_a_service_role_the_policy_is_dropped() -> None:
    access = [ObjectAccess("anon", "DELETE", True, "loose", True, "(bucket_id = 'generations'::text)")]
    found = judge_storage_policies(StoragePolicies(True, False, access), bucket="generations", local=False)
    assert found.do.splitlines()[-1] == "DROP POLICY loose ON storage.objects;"


async def test_storage_without_row_security_is_a_warning_with_the_statement_that_turns_it_on(owner: Any) -> None:
    await project(owner)
    await owner.execute("ALTER TABLE storage.objects DISABLE ROW LEVEL SECURITY")
    found = await check(owner)
    assert (found.word, "row security" in found.says) == ("warn", True)
    await run(owner, found.do)
    assert (await check(owner)).word == "ok"


async def test_where_objects_are_elsewhere_there_is_nothing_to_look_at(owner: Any) -> None:
    assert "no storage.objects" in (await check(owner)).says
    await project(owner)
    await owner.execute(SHOPS)
    assert (await check(owner, local=True)).word == "ok"
    assert (await check(owner, bucket="elsewhere")).word == "ok"


@pytest.mark.parametrize(
    ("rule", "anon", "authenticated"),
    [
        (None, True, True),
        ("true", True, True),
        ("(bucket_id = 'it''s'::text)", True, True),
        ("(bucket_id = 'its'::text)", False, False),
        ("((bucket_id = 'it''s'::text) AND (auth.role() = 'anon'::text))", True, False),
        ("((bucket_id = 'its'::text) OR (auth.role() <> 'anon'::text))", False, True),
        ("(NOT (bucket_id = 'its'::text))", True, True),
        ("(NOT is_moderator())", None, None),
        ("((bucket_id = 'its'::text) AND is_moderator())", False, False),
        ("((bucket_id = 'it''s'::text) OR is_moderator())", True, True),
        ("((bucket_id = 'its'::text) AND ((bucket_id = 'it''s'::text) OR is_moderator()))", False, False),
        ("(name = ' OR true'::text)", None, None),
        ('("a) OR (true"(name))', None, None),
    ],
)
def test_a_condition_is_read_without_being_run(rule: str | None, anon: bool | None, authenticated: bool | None) -> None:
    assert [allows(rule, bucket="it's", role=role) for role in ("anon", "authenticated")] == [anon, authenticated]


@pytest.mark.parametrize(
    ("rule", "only"),
    [
        (None, False),
        ("true", False),
        ("(bucket_id = 'ours'::text)", True),
        ("((bucket_id = 'ours'::text) OR is_moderator())", False),
        ("(bucket_id = ANY (ARRAY['ours'::text, 'other'::text]))", False),
    ],
)
def test_a_policy_is_changed_only_where_it_is_about_our_bucket_alone(rule: str | None, only: bool) -> None:
    assert concerns_only(rule, "ours") is only
