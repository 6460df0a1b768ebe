"""What `doctor` says of the table, our schema and who may do what there; what it says to do mends it.

Every fault is planted in a transaction that is rolled back: one database does for all.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from reconciler import __version__
from reconciler.operations.doctor import Check
from reconciler.operations.doctor import database as of_database
from reconciler.operations.doctor import privileges as rights
from reconciler.operations.doctor import table as judge
from reconciler.operations.doctor.facts import table as facts
from reconciler.postgres.migrations.migrate import behind, migrate
from reconciler.postgres.schema import REQUIRED, statuses
from testkit.tables import member, older_table, supabase_like
from tests.operations.doctor.installation import Surgery, amiss


async def _table(owner: Any) -> Check:
    return judge.table(frozenset(await facts.columns(owner)), REQUIRED)


async def _versions(owner: Any) -> Check:
    return of_database.replicas(await facts.versions(owner, timedelta(minutes=1)), __version__)


LOOKS: dict[str, Callable[[Any], Awaitable[Check]]] = {
    "schema": lambda owner: _judged(judge.schema, behind(owner)),
    "table": _table,
    "statuses": lambda owner: _judged(judge.statuses, statuses(owner)),
    "triggers": lambda owner: _judged(judge.triggers, facts.triggers(owner)),
    "indexes": lambda owner: _judged(lambda found: judge.indexes(found, facts.index_sql()), facts.indexes(owner)),
    "privileges": lambda owner: _judged(judge.privileges, rights.rights(owner, deletes=True)),
    "row_security": lambda owner: _judged(judge.row_security, rights.openings(owner)),
    "realtime": lambda owner: _judged(of_database.realtime, facts.publications(owner)),
    "replicas": _versions,
}


async def _judged(verdict: Callable[[Any], Check], asked: Awaitable[Any]) -> Check:
    return verdict(await asked)


@pytest.fixture
async def owner(rows_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(rows_dsn)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def mend(owner: Any, sql: str) -> None:
    """Do what was said, each statement alone; inside a transaction nothing can be built concurrently."""
    bare = "\n".join(line for line in sql.splitlines() if not line.startswith("--")).replace(" CONCURRENTLY", "")
    for one in re.split(r";(?:\n|$)", bare):
        if one.strip():
            await owner.execute(one)


@pytest.mark.parametrize(
    ("name", "word", "faults"),
    [
        ("triggers", "warn", ["ALTER TABLE public.generations DISABLE TRIGGER reconciler_updated"]),
        ("triggers", "warn", ["ALTER TABLE public.generations ENABLE REPLICA TRIGGER reconciler_inserted"]),
        ("indexes", "warn", ["DROP INDEX public.generations_reconciler_open"]),
        (
            "indexes",
            "warn",
            ["UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'generations_reconciler_failed'::regclass"],
        ),
        ("table", "FAIL", ["ALTER TABLE public.generations DROP COLUMN user_id CASCADE"]),
        (
            "realtime",
            "FAIL",
            [
                "ALTER TABLE public.generations REPLICA IDENTITY NOTHING",
                "CREATE PUBLICATION supabase_realtime FOR TABLE public.generations",
            ],
        ),
    ],
)
async def test_what_is_found_is_mended_by_what_is_said(owner: Any, name: str, word: str, faults: list[str]) -> None:
    assert (await LOOKS[name](owner)).word == "ok"
    for fault in faults:
        await owner.execute(fault)
    check = await LOOKS[name](owner)
    assert (check.name, check.word) == (name, word)
    await mend(owner, check.do)
    assert (await LOOKS[name](owner)).word == "ok"


async def test_a_dropped_trigger_is_missing_and_the_schema_behind(well: Surgery) -> None:
    await well.sql("DROP TRIGGER reconciler_inserted ON public.generations")
    checks = await well.look()
    assert amiss(checks) == {"schema": "warn", "triggers": "warn"}
    assert "031_triggers.sql" in checks["schema"].says
    assert checks["triggers"].do == "kie-reconciler migrate"


async def test_a_missing_index_is_told_with_the_statement_that_builds_it(owner: Any) -> None:
    await owner.execute("DROP INDEX public.generations_reconciler_open")
    check = await LOOKS["indexes"](owner)
    assert "generations_reconciler_open is missing" in check.says
    assert "CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_reconciler_open" in check.do


async def test_a_migration_that_is_behind_is_told_and_worse_where_nothing_runs_without_it(owner: Any) -> None:
    assert (await LOOKS["schema"](owner)).word == "ok"
    await owner.execute("DELETE FROM reconciler.schema_version WHERE file = '050_views.sql'")
    assert (await LOOKS["schema"](owner)).word == "warn"
    await owner.execute("DELETE FROM reconciler.schema_version WHERE file = '020_reconciler_tables.sql'")
    assert (await LOOKS["schema"](owner)).word == "FAIL"


async def test_an_empty_database_fails_without_a_crash(empty_dsn: str, shared: Surgery) -> None:
    checks = await shared.look(DATABASE_URL=empty_dsn)
    assert (checks["schema"].word, checks["table"].word) == ("FAIL", "FAIL")
    assert checks["triggers"].says == "not looked at: there is no table to look at"
    assert checks["replicas"].says.startswith("not looked at: ")
    assert checks["upload"].word == "ok"


async def test_an_older_applications_table_is_looked_at_as_it_is(empty_dsn: str, shared: Surgery) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await older_table(connection)
    await migrate(empty_dsn)
    await connection.execute(
        "INSERT INTO reconciler.work (generation_id, due_at) SELECT id::text, now() FROM public.generations"
    )
    await connection.close()
    checks = await shared.look(DATABASE_URL=empty_dsn)
    assert amiss(checks) == {}
    assert "no row has a task that KIE still knows" in checks["kie_models"].says


@pytest.mark.parametrize(
    ("words", "word", "told"),
    [
        ("'queued', 'generating', 'success', 'cancelled'", "FAIL", "failed"),
        ("'queued', 'failed', 'success', 'cancelled'", "warn", "generating"),
        ("'success', 'failed'", "FAIL", "in flight"),
        ("'pending', 'processing', 'completed', 'failed'", "ok", "completed"),
    ],
)
async def test_a_check_that_forbids_our_statuses_is_told(owner: Any, words: str, word: str, told: str) -> None:
    assert (await LOOKS["statuses"](owner)).word == "ok"
    await owner.execute(
        f"""ALTER TABLE public.generations DROP CONSTRAINT generations_status_check,
                  ADD CONSTRAINT narrow CHECK (status IN ({words}))"""
    )
    check = await LOOKS["statuses"](owner)
    assert (check.word, told in check.says) == (word, True)


async def test_a_publication_is_noted(owner: Any) -> None:
    assert "no publication" in (await LOOKS["realtime"](owner)).says
    await owner.execute("CREATE PUBLICATION supabase_realtime FOR TABLE public.generations")
    check = await LOOKS["realtime"](owner)
    assert (check.word, "supabase_realtime" in check.says) == ("ok", True)


@pytest.mark.parametrize(
    ("others", "word"),
    [((), "ok"), ((__version__, __version__), "ok"), ((__version__, "0.0.1"), "warn"), (("0.0.1",), "warn")],
)
async def test_daemons_of_different_versions_are_told(owner: Any, others: tuple[str, ...], word: str) -> None:
    for version, ago in [("0.0.0", "1 hour"), *((each, "1 second") for each in others)]:
        await owner.execute(
            f"""INSERT INTO reconciler.instances (id, host, pid, version, seen_at)
                VALUES (gen_random_uuid(), 'here', 1, '{version}', now() - interval '{ago}')"""
        )
    check = await LOOKS["replicas"](owner)
    assert check.word == word
    assert all(each in check.says for each in others)
    assert "0.0.0" not in check.says


@pytest.mark.parametrize(
    ("taken", "word"),
    [
        ("REVOKE SELECT ON public.generations FROM reconciler", "FAIL"),
        ("REVOKE UPDATE (asset_url) ON public.generations FROM reconciler", "FAIL"),
        ("REVOKE INSERT ON public.generations FROM reconciler", "warn"),
        ("REVOKE DELETE ON public.generations FROM reconciler", "warn"),
        ("REVOKE UPDATE ON reconciler.work FROM reconciler", "FAIL"),
        ("REVOKE SELECT ON reconciler.schema_version FROM reconciler", "FAIL"),
        ("REVOKE SELECT ON reconciler.pace FROM reconciler", "FAIL"),
        ("REVOKE EXECUTE ON FUNCTION reconciler.allowed_statuses() FROM reconciler", "FAIL"),
        ("REVOKE USAGE ON SCHEMA reconciler FROM reconciler", "FAIL"),
        ("DROP POLICY reconciler_select ON public.generations", "FAIL"),
        ("DROP POLICY reconciler_update ON public.generations", "FAIL"),
        ("DROP POLICY reconciler_insert ON public.generations", "warn"),
        ("DROP POLICY reconciler_delete ON public.generations", "warn"),
    ],
)
async def test_every_right_that_run_uses_is_missed_and_the_sql_gives_it(owner: Any, taken: str, word: str) -> None:
    assert (await as_daemon(owner)).word == "ok"
    await owner.execute(taken)
    check = await as_daemon(owner)
    assert check.word == word
    await mend(owner, check.do)
    assert (await as_daemon(owner)).word == "ok"


async def as_daemon(owner: Any) -> Check:
    """Look as the role whose rights a daemon's login has."""
    await owner.execute("SET LOCAL ROLE reconciler")
    check = await LOOKS["privileges"](owner)
    await owner.execute("RESET ROLE")
    return check


async def test_the_right_to_delete_is_not_missed_where_nothing_is_deleted(owner: Any) -> None:
    await owner.execute("REVOKE DELETE ON public.generations FROM reconciler")
    await owner.execute("SET LOCAL ROLE reconciler")
    assert judge.privileges(await rights.rights(owner, deletes=False)).word == "ok"


async def test_a_login_without_any_right_is_told_all_of_them(shared: Surgery) -> None:
    async with member(shared.dsn) as login:
        checks = await shared.look(DATABASE_URL=login)
        assert (checks["schema"].word, checks["privileges"].word) == ("FAIL", "FAIL")
        given = checks["privileges"].do
        keeper = await asyncpg.connect(shared.dsn)
        try:
            await mend(keeper, given)
            assert amiss(await shared.look(DATABASE_URL=login)) == {}
        finally:
            for policy in re.findall(r"CREATE POLICY (\S+)", given):
                await keeper.execute(f"DROP POLICY {policy} ON public.generations")
            await keeper.close()


OPEN = "CREATE POLICY loose ON public.generations FOR {} {}"


@pytest.mark.parametrize(
    ("fault", "word", "told"),
    [
        (OPEN.format("UPDATE", "USING (true)"), "FAIL", "UPDATE by anon"),
        (OPEN.format("INSERT", "TO anon WITH CHECK (true)"), "FAIL", "INSERT by anon"),
        (OPEN.format("ALL", "TO authenticated USING (true)"), "FAIL", "DELETE by authenticated"),
        (OPEN.format("SELECT", "USING (true)"), "warn", "SELECT by anon"),
        ("ALTER TABLE public.generations DISABLE ROW LEVEL SECURITY", "FAIL", "INSERT by anon"),
    ],
)
async def test_what_is_open_to_anon_is_told_and_the_sql_closes_it(owner: Any, fault: str, word: str, told: str) -> None:
    await project(owner)
    await owner.execute(fault)
    check = await LOOKS["row_security"](owner)
    assert (check.word, told in check.says) == (word, True)
    await mend(owner, check.do)
    assert (await LOOKS["row_security"](owner)).word == "ok"
    assert (await as_daemon(owner)).word == "ok"


async def test_what_a_restriction_closes_or_no_grant_opens_is_not_open(owner: Any) -> None:
    await project(owner)
    assert "authenticated" in (await LOOKS["row_security"](owner)).says
    await owner.execute(OPEN.format("UPDATE", "USING (true)"))
    await owner.execute(
        "CREATE POLICY shut ON public.generations AS RESTRICTIVE FOR UPDATE TO anon, authenticated USING (false)"
    )
    assert (await LOOKS["row_security"](owner)).word == "ok"
    await owner.execute(
        "DROP POLICY shut ON public.generations; REVOKE ALL ON public.generations FROM anon, authenticated"
    )
    assert (await LOOKS["row_security"](owner)).word == "ok"


async def project(owner: Any) -> None:
    """The roles of a Supabase project, with the rights that it gives them by default."""
    await supabase_like(owner)
    await owner.execute("GRANT ALL ON public.generations TO anon, authenticated, service_role")
