"""cleanup_old_failed_generations deletes old failures without results, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reconciler.postgres.migrations.migrate import migrate
from testkit.tables import older_table, supabase_like

CLEANUP = "SELECT public.cleanup_old_failed_generations"
_SCHEMA = (Path(__file__).parents[1] / "upgrade" / "schema_0_1_0.sql").read_text()
FORMER = _SCHEMA[_SCHEMA.index("CREATE FUNCTION public.cleanup_old") : _SCHEMA.index("CREATE FUNCTION reconciler.")]


async def insert(connection: Any, **values: str) -> str:
    """A row that failed 31 days ago, when it was created, without results, except for these SQL values."""
    created = values.get("created_at", "now() - interval '31 days'")
    row = {"status": "'failed'", "created_at": created, "updated_at": created, **values}
    made: str = await connection.fetchval(
        f"INSERT INTO public.generations ({', '.join(row)}) VALUES ({', '.join(row.values())}) RETURNING id::text"
    )
    return made


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"result_urls": "'[]'"},
        {"result_urls": "'null'"},
        {"asset_urls": "'[]'", "asset_url": "''"},
        {"created_at": "now() - interval '400 days'"},
    ],
)
async def test_an_old_failure_without_results_goes(undone: Any, values: dict[str, str]) -> None:
    await insert(undone, **values)
    assert await undone.fetchval(f"{CLEANUP}()") == 1
    assert await undone.fetchval("SELECT count(*) FROM public.generations") == 0


@pytest.mark.parametrize(
    "values",
    [
        {"created_at": "now() - interval '29 days'"},
        {"updated_at": "now()"},
        {"asset_url": "'https://ours/1.png'"},
        {"asset_urls": """'["https://ours/1.png"]'"""},
        {"result_urls": """'["https://theirs/1.png"]'"""},
        *({"status": f"'{word}'"} for word in ("queued", "generating", "success", "cancelled")),
    ],
)
async def test_everything_else_stays(undone: Any, values: dict[str, str]) -> None:
    await insert(undone, **values)
    assert await undone.fetchval(f"{CLEANUP}()") == 0
    assert await undone.fetchval("SELECT count(*) FROM public.generations") == 1


async def test_the_days_are_the_callers(undone: Any) -> None:
    await insert(undone, created_at="now() - interval '8 days'")
    assert await undone.fetchval(f"{CLEANUP}(9)") == 0
    assert await undone.fetchval(f"{CLEANUP}(days_old => 7)") == 1


@pytest.mark.parametrize(("proof", "deleted"), [("'etag-md5'", 0), ("NULL", 1)])
async def test_a_failure_of_which_a_part_is_stored_stays(undone: Any, proof: str, deleted: int) -> None:
    made = await insert(undone)
    await undone.execute(
        "INSERT INTO reconciler.assets (generation_id, task_id, n, path, mime, size, sha256, md5, verified_by)"
        f" VALUES ('{made}', 'task', 0, 'path', 'image/png', 1, '', '', {proof})"
    )
    assert await undone.fetchval(f"{CLEANUP}()") == deleted


async def test_it_works_on_an_older_table_and_for_the_service_role(empty_dsn: str) -> None:
    """An older table: its results are text[], and its roles may not read our schema."""
    connection = await asyncpg.connect(empty_dsn)
    await supabase_like(connection)
    await older_table(connection, row_security=True)
    await migrate(empty_dsn, application=True)
    await connection.execute(
        "ALTER TABLE public.generations DISABLE TRIGGER generations_updated_at;"
        "UPDATE public.generations SET created_at = now() - interval '31 days';"
        "UPDATE public.generations SET updated_at = created_at;"
        "INSERT INTO public.generations"
        "       (user_id, type, model_id, model_name, prompt, status, created_at, updated_at, result_urls)"
        " SELECT gen_random_uuid(), 'image', 'm', 'M', 'with ' || cardinality(urls), 'failed',"
        "        now() - interval '31 days', now() - interval '31 days', urls"
        "   FROM (VALUES ('{}'::text[]), ('{https://theirs/1.png}')) AS v (urls);"
        "SET ROLE service_role"
    )
    assert await connection.fetchval(f"{CLEANUP}()") == 2
    left = {row[0] for row in await connection.fetch("SELECT prompt FROM public.generations")}
    await connection.close()
    assert "with 1" in left
    assert not {"with 0", "failed"} & left
    assert len(left) == 9


@pytest.mark.parametrize(("facts", "deleted"), [
    ("seen_task = 'task', failed_at = now()", 0),
    ("seen_task = 'task', failed_at = now() - interval '31 days'", 1),
    ("looked_at = now() - interval '29 days'", 0),
    ("gave_up = true, due_at = now() + interval '1 day'", 0),
    ("reopened = true, due_at = now()", 0),
])  # fmt: skip
async def test_the_days_count_from_the_failure(undone: Any, facts: str, deleted: int) -> None:
    """N9: a row that was created 31 days ago and failed just now."""
    made = await insert(undone, task_id="'task'")
    await undone.execute("INSERT INTO reconciler.work (generation_id) VALUES ($1)", made)
    await undone.execute(f"UPDATE reconciler.work SET {facts}")
    assert await undone.fetchval(f"{CLEANUP}()") == deleted


async def test_the_function_of_0_1_0_is_replaced(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(FORMER)
    await migrate(empty_dsn, application=True)
    made = await insert(connection)
    assert await connection.fetchval("SELECT count(*) FROM public.generations WHERE id::text = $1", made) == 1
    await connection.execute("UPDATE public.generations SET updated_at = now()")
    assert await connection.fetchval(f"{CLEANUP}()") == 0
    await connection.close()


async def test_a_function_of_the_application_by_that_name_stays(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "CREATE FUNCTION public.cleanup_old_failed_generations(days_old integer DEFAULT 7) RETURNS integer"
        " LANGUAGE sql AS 'SELECT 42'"
    )
    await migrate(empty_dsn, application=True)
    assert await connection.fetchval(f"{CLEANUP}()") == 42
    await connection.close()
