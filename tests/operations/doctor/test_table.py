"""What `doctor` says about the table, our schema, publications and replicas; the SQL that it gives repairs them.

Every fault is made in a transaction that is rolled back, so that one database serves all tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from reconciler import __version__
from reconciler.operations.doctor import Check, database, table
from reconciler.operations.doctor.activity import judge_replicas
from reconciler.postgres.migrations.migrate import migrate
from reconciler.postgres.migrations.missing_files import missing_files
from reconciler.postgres.schema import statuses
from testkit.tables import older_table
from tests.operations.doctor.installation import Installation, heartbeat, not_ok, run

CHECKS: dict[str, Callable[[Any], Awaitable[Check]]] = {
    "schema": lambda owner: judged(table.judge_schema, missing_files(owner)),
    "table": lambda owner: judged(lambda columns: table.judge_table(frozenset(columns)), table.read_columns(owner)),
    "statuses": lambda owner: judged(table.judge_statuses, statuses(owner)),
    "triggers": lambda owner: judged(table.judge_triggers, table.read_triggers(owner)),
    "indexes": lambda owner: judged(table.judge_indexes, table.read_indexes(owner)),
    "realtime": lambda owner: judged(database.judge_realtime, database.read_publications(owner)),
    "replicas": lambda owner: judged(
        lambda versions: judge_replicas(versions, __version__, 0),
        database.read_versions(owner, timedelta(minutes=1)),
    ),
}


async def judged(judge: Callable[[Any], Check], facts: Awaitable[Any]) -> Check:
    return judge(await facts)


@pytest.mark.parametrize(
    ("name", "word", "faults"),
    [
        ("triggers", "warn", ["ALTER TABLE public.generations DISABLE TRIGGER reconciler_updated_2"]),
        ("triggers", "warn", ["ALTER TABLE public.generations ENABLE REPLICA TRIGGER reconciler_inserted_3"]),
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
async def test_the_sql_of_a_check_repairs_what_it_found(owner: Any, name: str, word: str, faults: list[str]) -> None:
    assert (await CHECKS[name](owner)).word == "ok"
    for fault in faults:
        await owner.execute(fault)
    check = await CHECKS[name](owner)
    assert (check.name, check.word) == (name, word)
    await run(owner, check.do)
    assert (await CHECKS[name](owner)).word == "ok"


async def test_a_dropped_trigger_is_a_warning_and_so_is_the_schema(own: Installation) -> None:
    await own.sql("DROP TRIGGER reconciler_inserted_3 ON public.generations")
    checks = await own.examine()
    assert not_ok(checks) == {"schema": "warn", "triggers": "warn"}
    assert "031_triggers.sql" in checks["schema"].says
    assert checks["triggers"].do == "kie-reconciler migrate"


async def test_a_missing_index_is_named_with_the_statement_that_builds_it(owner: Any) -> None:
    await owner.execute("DROP INDEX public.generations_reconciler_open")
    check = await CHECKS["indexes"](owner)
    assert "generations_reconciler_open is missing" in check.says
    assert "CREATE INDEX CONCURRENTLY IF NOT EXISTS generations_reconciler_open" in check.do


async def test_a_missing_migration_is_a_warning_and_fails_where_nothing_runs_without_it(owner: Any) -> None:
    assert (await CHECKS["schema"](owner)).word == "ok"
    await owner.execute("DELETE FROM reconciler.schema_version WHERE file = '050_views.sql'")
    assert (await CHECKS["schema"](owner)).word == "warn"
    await owner.execute("DELETE FROM reconciler.schema_version WHERE file = '020_reconciler_tables.sql'")
    assert (await CHECKS["schema"](owner)).word == "FAIL"


async def test_an_empty_database_fails_and_its_other_checks_are_not_looked_at(
    empty_dsn: str, shared: Installation
) -> None:
    checks = await shared.examine(DATABASE_URL=empty_dsn)
    assert (checks["schema"].word, checks["table"].word) == ("FAIL", "FAIL")
    assert checks["triggers"].says == "not looked at: there is no table to look at"
    assert checks["replicas"].says.startswith("not looked at: ")
    assert checks["upload"].word == "ok"


async def test_the_table_of_an_older_application_is_ok(empty_dsn: str, shared: Installation) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await older_table(connection)
    await migrate(empty_dsn)
    await connection.execute(
        "INSERT INTO reconciler.work (generation_id, due_at) SELECT id::text, now() FROM public.generations"
    )
    await connection.close()
    await heartbeat(empty_dsn)
    checks = await shared.examine(DATABASE_URL=empty_dsn)
    assert not_ok(checks) == {}
    assert "no row has a task that KIE still knows" in checks["kie_models"].says


@pytest.mark.parametrize(
    ("words", "word", "says"),
    [
        ("'queued', 'generating', 'success', 'cancelled'", "FAIL", "failed"),
        ("'queued', 'failed', 'success', 'cancelled'", "warn", "generating"),
        ("'success', 'failed'", "FAIL", "in flight"),
        ("'pending', 'processing', 'completed', 'failed'", "ok", "completed"),
    ],
)
async def test_a_check_on_status_that_forbids_our_words_is_not_ok(owner: Any, words: str, word: str, says: str) -> None:
    assert (await CHECKS["statuses"](owner)).word == "ok"
    await owner.execute(
        f"""ALTER TABLE public.generations DROP CONSTRAINT generations_status_check,
                  ADD CONSTRAINT narrow CHECK (status IN ({words}))"""
    )
    check = await CHECKS["statuses"](owner)
    assert (check.word, says in check.says) == (word, True)


async def test_a_publication_that_carries_the_table_is_named(owner: Any) -> None:
    assert "no publication" in (await CHECKS["realtime"](owner)).says
    await owner.execute("CREATE PUBLICATION supabase_realtime FOR TABLE public.generations")
    check = await CHECKS["realtime"](owner)
    assert (check.word, "supabase_realtime" in check.says) == ("ok", True)


@pytest.mark.parametrize(
    ("others", "word"),
    [((), "warn"), ((__version__, __version__), "ok"), ((__version__, "0.0.1"), "warn"), (("0.0.1",), "warn")],
)
async def test_daemons_of_different_versions_are_a_warning(owner: Any, others: tuple[str, ...], word: str) -> None:
    for version, ago in [("0.0.0", "1 hour"), *((each, "1 second") for each in others)]:
        await owner.execute(
            f"""INSERT INTO reconciler.instances (id, host, pid, version, seen_at)
                VALUES (gen_random_uuid(), 'here', 1, '{version}', now() - interval '{ago}')"""
        )
    check = await CHECKS["replicas"](owner)
    assert check.word == word
    assert all(each in check.says for each in others)
    assert "0.0.0" not in check.says
