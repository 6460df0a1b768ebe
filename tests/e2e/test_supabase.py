"""On a Supabase project: its roles, its row level security, and a login with the daemon's least privileges."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import migrate
from reconciler.simulator import MediaSpec, Simulator, never
from testkit.stage import Rig, staged
from testkit.standins.storage import SupabaseStorage
from testkit.tables import member, supabase_like
from testkit.waiting import until


@pytest.fixture
async def project(empty_dsn: str, kie: Simulator, tmp_path: Path) -> AsyncIterator[Rig]:
    """A stage over a fresh project that was brought up to the specification."""
    connection = await asyncpg.connect(empty_dsn)
    try:
        await supabase_like(connection)
    finally:
        await connection.close()
    await migrate(empty_dsn, application=True)
    async with staged(empty_dsn, kie, tmp_path, SupabaseStorage()) as rig:
        yield rig


async def test_a_login_of_the_role_reconciler_can_do_everything_that_run_does(project: Rig) -> None:
    async with member(project.dsn, "reconciler") as dsn:
        connection = await asyncpg.connect(dsn)
        try:
            assert not await connection.fetchval(
                "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
            )
        finally:
            await connection.close()
        replica = await project.run(DATABASE_URL=dsn)
        running = await project.order(life=never("generating"))
        refused = await project.order(fate="fail")
        await project.delivered(
            [await project.order(), await project.order(results=[MediaSpec(), MediaSpec(ext="jpg")])]
        )

        async def are_told() -> bool:
            rows = await project.pool.fetch(
                "SELECT id::text, status FROM public.generations WHERE id::text IN ($1, $2)", running, refused
            )
            return {row["id"]: row["status"] for row in rows} == {running: "generating", refused: "failed"}

        await until(are_told, what="one row generating, one failed")
        await project.pool.execute("DELETE FROM public.generations WHERE id::text = $1", running)
        amiss = [line for line in replica.log if line["level"] in ("warning", "error")]
        assert [line for line in amiss if line["event"] not in ("generation.failed", "finding.open")] == []
        await replica.kill()


async def test_a_login_that_row_security_shows_no_rows_gets_a_message(project: Rig) -> None:
    async with member(project.dsn) as dsn:
        name = dsn.partition("://")[2].partition(":")[0]
        await project.pool.execute(
            f"GRANT USAGE ON SCHEMA reconciler TO {name}; GRANT ALL ON ALL TABLES IN SCHEMA reconciler TO {name};"
            f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA reconciler TO {name}; GRANT ALL ON public.generations TO {name}"
        )
        replica = await project.begin(DATABASE_URL=dsn)
        ended = await replica.ended(within=20)
        assert ended.code == 2
        (line,) = ended.lines
        assert "row security" in line
        assert "CREATE POLICY" in line
