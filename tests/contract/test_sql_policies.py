"""What each role may do through Supabase's API after `migrate --application`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import migrate
from testkit.tables import USER, older_table, supabase_like
from tests.conftest import Databases, _apart

INSERT = f"INSERT INTO public.generations (user_id, kind) VALUES ('{USER}', 'image')"


@pytest.fixture(scope="module")
def project_dsn(postgres: Any, databases: Databases) -> Iterator[str]:
    """A Supabase project as `migrate --application` leaves it, with one user's row and a stranger's."""

    async def made(dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        await supabase_like(connection)
        await migrate(dsn, application=True)
        await connection.execute(f"{INSERT}, (gen_random_uuid(), 'image')")
        await connection.close()

    with databases.new() as name:
        _apart(lambda: made(postgres.dsn(name)))
        yield postgres.dsn(name)


@pytest.fixture
async def project(project_dsn: str) -> AsyncIterator[Any]:
    """A session in that project, in a transaction that is rolled back."""
    connection = await asyncpg.connect(project_dsn)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def become(project: Any, role: str, user: str = "") -> None:
    """Speak as PostgREST does for a request of this role."""
    await project.execute(f"SET ROLE {role}; SET request.jwt.claim.sub = '{user}'")


async def kept(project: Any) -> list[Any]:
    await project.execute("RESET ROLE")
    return [tuple(row) for row in await project.fetch("SELECT user_id, status FROM public.generations ORDER BY 1")]


async def attempt(project: Any, statement: str) -> None:
    """Row security answers some commands with an error and others by touching nothing."""
    with suppress(asyncpg.InsufficientPrivilegeError):
        async with project.transaction():
            await project.execute(statement)


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_nobody_but_the_service_role_writes(project: Any, role: str) -> None:
    before = await kept(project)
    for statement in (
        INSERT,
        "UPDATE public.generations SET status = 'success'",
        "DELETE FROM public.generations",
        "TRUNCATE public.generations",
    ):
        await become(project, role, USER)
        await attempt(project, statement)
    assert await kept(project) == before


async def test_anon_sees_no_row(project: Any) -> None:
    await become(project, "anon")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await project.execute("SELECT FROM public.generations")


async def test_a_user_sees_their_own_rows_only(project: Any) -> None:
    await become(project, "authenticated", USER)
    assert [str(row[0]) for row in await project.fetch("SELECT user_id FROM public.generations")] == [USER]


async def test_the_service_role_does_everything(project: Any) -> None:
    await become(project, "service_role")
    await project.execute(INSERT)
    assert await project.execute("UPDATE public.generations SET status = 'success'") == "UPDATE 3"
    assert await project.execute("DELETE FROM public.generations") == "DELETE 3"


async def test_the_service_roles_policies_name_it_and_nobody_else(project: Any) -> None:
    """The specification's own migration opened the table to everyone."""
    policies = await project.fetch(
        "SELECT cmd, roles::text, with_check FROM pg_policies"
        " WHERE tablename = 'generations' AND policyname LIKE 'generations_service_%' ORDER BY 1"
    )
    assert [tuple(row) for row in policies] == [
        ("INSERT", "{service_role}", "true"),
        ("UPDATE", "{service_role}", "true"),
    ]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
async def test_no_role_of_the_api_reaches_our_schema(project: Any, role: str) -> None:
    await become(project, role)
    for statement in (
        "SELECT FROM reconciler.work",
        "SELECT FROM reconciler.callbacks",
        "SELECT FROM reconciler.budget",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with project.transaction():
                await project.execute(statement)


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_strangers_cannot_delete_files_or_run_the_cleanup(project: Any, role: str) -> None:
    await project.execute("INSERT INTO storage.objects (bucket_id, name) VALUES ('generations', 'a.png')")
    await become(project, role, USER)
    for statement in (
        "DELETE FROM storage.objects",
        "UPDATE storage.objects SET name = 'b.png'",
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('generations', 'c.png')",
    ):
        await attempt(project, statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with project.transaction():
            await project.execute("SELECT public.cleanup_old_failed_generations(0)")
    await project.execute("RESET ROLE")
    assert [row[0] for row in await project.fetch("SELECT name FROM storage.objects")] == ["a.png"]


async def test_the_bucket_is_there_and_public(project: Any) -> None:
    buckets = await project.fetch("SELECT id, name, public FROM storage.buckets")
    assert [tuple(row) for row in buckets] == [("generations", "generations", True)]


async def test_a_private_bucket_is_left_alone_and_named(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await supabase_like(connection)
    await connection.execute(
        "INSERT INTO storage.buckets (id, name, public) VALUES ('generations', 'generations', false)"
    )
    warnings: list[str] = []
    await migrate(empty_dsn, application=True, warn=warnings.append)
    assert any("not public" in warning for warning in warnings)
    assert await connection.fetchval("SELECT public FROM storage.buckets") is False
    await connection.close()


async def test_policies_that_are_there_stay_and_an_open_table_is_named(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await supabase_like(connection)
    await older_table(connection)
    warnings: list[str] = []
    await migrate(empty_dsn, application=True, warn=warnings.append)
    assert any("anybody may write" in warning for warning in warnings)
    assert (
        await connection.fetchval("SELECT relrowsecurity FROM pg_class WHERE oid = 'public.generations'::regclass")
        is False
    )
    await connection.close()


SECURED = "ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY"


@pytest.mark.parametrize(
    "closed",
    [
        pytest.param("", id="no row security"),
        pytest.param(
            f"{SECURED}; CREATE POLICY open ON public.generations FOR SELECT USING (true)", id="an open policy"
        ),
        pytest.param(f"{SECURED}; GRANT SELECT (id) ON public.generations TO authenticated", id="rights to a column"),
    ],
)
async def test_a_table_that_was_closed_to_users_stays_closed(empty_dsn: str, closed: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await supabase_like(connection)
    await older_table(connection)
    await connection.execute(f"REVOKE ALL ON public.generations FROM anon, authenticated; {closed}")
    warnings: list[str] = []
    await migrate(empty_dsn, application=True, warn=warnings.append)
    assert warnings == []
    await become(connection, "authenticated", USER)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("SELECT status FROM public.generations")
    await connection.close()


async def test_a_table_that_every_user_may_read_whole_is_named(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await supabase_like(connection)
    await older_table(connection)
    await connection.execute("REVOKE ALL ON public.generations FROM anon, authenticated")
    await connection.execute("GRANT SELECT ON public.generations TO authenticated")
    warnings: list[str] = []
    await migrate(empty_dsn, application=True, warn=warnings.append)
    await connection.close()
    assert any("every user may read" in warning for warning in warnings)


async def test_a_users_view_of_their_rows_is_not_made_twice(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await supabase_like(connection)
    await older_table(connection, row_security=True)
    await migrate(empty_dsn, application=True)
    for_users = await connection.fetch(
        "SELECT policyname FROM pg_policies WHERE tablename = 'generations' AND cmd = 'SELECT'"
        " AND roles && '{public,authenticated}'::name[]"
    )
    assert [row[0] for row in for_users] == ["Users see their own"]
    await become(connection, "authenticated", USER)
    assert await connection.fetchval("SELECT count(*) FROM public.generations") == 9
    await become(connection, "authenticated", "99999999-2222-4333-8444-555555555555")
    assert await connection.fetchval("SELECT count(*) FROM public.generations") == 0
    await connection.close()


async def test_a_user_id_of_another_type_is_compared_as_text(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await supabase_like(connection)
    await connection.execute(
        f"CREATE TABLE public.generations (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text);"
        f"INSERT INTO public.generations (user_id) VALUES ('{USER}'), ('somebody else');"
        "ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY"
    )
    await migrate(empty_dsn, application=True)
    await become(connection, "authenticated", USER)
    assert [row[0] for row in await connection.fetch("SELECT user_id FROM public.generations")] == [USER]
    await connection.close()
