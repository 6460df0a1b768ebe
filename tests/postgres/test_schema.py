"""Reading the application's table as it is: its columns, its types, its statuses, and faults."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.errors import Config
from reconciler.postgres.predicates import OPEN_OR_UNHEALED
from reconciler.postgres.schema import REQUIRED, introspect
from testkit.tables import older_table

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = "id uuid PRIMARY KEY, user_id uuid, status text, task_id text, asset_url text, created_at timestamptz"


@pytest.fixture
async def connection(postgres: Any) -> AsyncIterator[Any]:
    """A session in a transaction that is rolled back: these tests need no database of their own."""
    connection = await asyncpg.connect(postgres.dsn())
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def table(connection: Any, columns: str = MINIMAL, check: str = "") -> None:
    await connection.execute(f"CREATE TABLE public.generations ({columns}{check and f', CHECK ({check})'})")


async def test_the_required_columns_are_enough(connection: Any) -> None:
    await table(connection)
    found = await introspect(connection)
    assert found.id_type == "uuid"
    assert (found.kind_columns, found.model_columns, found.error_column) == ((), (), None)
    assert found.statuses is None
    assert (found.success, found.writes_generating) == ("success", True)
    assert found.needed == {"id"}


async def test_an_older_table_is_taken_as_it_is(connection: Any) -> None:
    await older_table(connection)
    found = await introspect(connection)
    assert (found.kind_columns, found.model_columns) == (("type",), ("model_id", "model_name"))
    assert found.error_column == "error"
    assert found.words == {"type": {"image", "video", "audio"}}
    assert found.columns["result_urls"] == "text[]"
    assert not found.has("asset_urls")
    assert found.statuses == frozenset({"pending", "processing", "completed", "failed"})
    assert (found.success, found.writes_generating) == ("completed", False)
    assert found.needed == {"user_id", "type", "model_id", "model_name"}


async def test_the_specifications_names_come_before_older_ones(connection: Any) -> None:
    await table(
        connection, f"{MINIMAL}, type text, kind text, model_name text, model text, model_id text, model_key text"
    )
    found = await introspect(connection)
    assert (found.kind_columns[0], found.model_columns[0]) == ("kind", "model_key")


@pytest.mark.parametrize(
    ("check", "allowed"),
    [
        ("status IN ('queued', 'success', 'failed')", {"queued", "success", "failed"}),
        ("status = ANY ('{success,failed,paused}'::text[])", {"success", "failed", "paused"}),
        ("status::varchar IN ('success', 'failed', 'it''s')", {"success", "failed", "it's"}),
        ("status = 'failed' OR status = 'completed' OR status = 'melted'", {"failed", "completed", "melted"}),
        (
            "status <> 'queued'",
            {"generating", "success", "failed", "cancelled", "pending", "processing", "completed"},
        ),
        ("status ~ '^(success|failed)$'", {"success", "failed"}),
    ],
)
async def test_the_allowed_statuses_come_from_the_check_itself(connection: Any, check: str, allowed: set[str]) -> None:
    await table(connection, check=check)
    assert (await introspect(connection)).statuses == frozenset(allowed)


async def test_of_two_checks_both_must_allow_a_word(connection: Any) -> None:
    await table(connection, check="status IN ('queued', 'success', 'failed', 'pending')), CHECK (status <> 'pending'")
    assert (await introspect(connection)).statuses == frozenset({"queued", "success", "failed"})


@pytest.mark.parametrize("kind", ["varchar(20)", "character(10)"])
async def test_the_status_may_have_any_text_type(connection: Any, kind: str) -> None:
    columns = MINIMAL.replace("status text", f"status {kind}")
    await table(connection, columns, check="status IN ('success', 'failed')")
    assert (await introspect(connection)).takes("success")


async def test_a_missing_table_is_reported_with_the_command_that_makes_it(connection: Any) -> None:
    with pytest.raises(Config, match=r"no table public\.generations") as refused:
        await introspect(connection)
    assert "migrate --application" in refused.value.hint


@pytest.mark.parametrize("missing", [[name] for name in REQUIRED] + [list(REQUIRED)[1:]])
async def test_a_missing_column_is_reported_with_the_sql_that_adds_it(connection: Any, missing: list[str]) -> None:
    there = [column for column in MINIMAL.split(", ") if column.split()[0] not in missing]
    await table(connection, ", ".join(there))
    with pytest.raises(Config) as refused:
        await introspect(connection)
    assert all(name in str(refused.value) for name in missing)
    await connection.execute(refused.value.hint.partition(";")[0])
    found = await introspect(connection)
    assert all(found.has(name) for name in REQUIRED)


@pytest.mark.parametrize("column", ["status", "task_id"])
async def test_a_column_of_another_type_is_reported_with_the_sql_that_changes_it(connection: Any, column: str) -> None:
    await connection.execute("CREATE TYPE public.word AS ENUM ('queued', 'success', 'failed')")
    await table(connection, MINIMAL.replace(f"{column} text", f"{column} public.word"))
    with pytest.raises(Config, match=column) as refused:
        await introspect(connection)
    await connection.execute(refused.value.hint)
    assert (await introspect(connection)).columns[column] == "text"


@pytest.mark.parametrize(
    ("check", "refused"),
    [
        ("status IN ('queued', 'success')", "failed"),
        ("status IN ('queued', 'failed')", "completed"),
    ],
)
async def test_a_check_that_refuses_a_needed_status_is_reported(connection: Any, check: str, refused: str) -> None:
    await table(connection, check=check)
    with pytest.raises(Config, match=refused):
        await introspect(connection)


async def test_a_generated_column_is_not_written(connection: Any) -> None:
    await table(connection, f"{MINIMAL}, result_urls text GENERATED ALWAYS AS (asset_url) STORED")
    assert not (await introspect(connection)).has("result_urls")


async def test_a_dropped_column_does_not_exist(connection: Any) -> None:
    await table(connection, f"{MINIMAL}, error text")
    await connection.execute("ALTER TABLE public.generations DROP COLUMN error")
    assert (await introspect(connection)).error_column is None


async def test_the_statuses_of_the_sweep_are_those_of_the_domain(connection: Any) -> None:
    words = [*OPEN, *SUCCEEDED, "failed", "cancelled", "melted"]
    found = await connection.fetch(
        f"SELECT status, asset_url IS NULL AS bare FROM unnest($1::text[]) AS s (status),"
        f" (VALUES (NULL), ('https://ours')) AS a (asset_url) WHERE {OPEN_OR_UNHEALED}",
        words,
    )
    both = {(word, bare) for word in OPEN for bare in (True, False)}
    assert {tuple(row) for row in found} == both | {(word, True) for word in SUCCEEDED}


async def test_the_condition_of_the_sweep_combines_with_others(connection: Any) -> None:
    assert (
        await connection.fetch(
            f"SELECT FROM (VALUES ('queued', NULL)) AS g (status, asset_url) WHERE {OPEN_OR_UNHEALED} AND false"
        )
        == []
    )


async def test_the_sweep_and_its_index_have_the_same_condition(connection: Any) -> None:
    await table(connection)
    index = (ROOT / "sql" / "040_open_index.sql").read_text()
    await connection.execute(index.replace("CONCURRENTLY", ""))
    await connection.execute(f"CREATE INDEX same ON public.generations (id) WHERE {OPEN_OR_UNHEALED}")
    ours, theirs = [
        await connection.fetchval("SELECT pg_get_indexdef(to_regclass($1))", f"public.{name}")
        for name in ("generations_reconciler_open", "same")
    ]
    assert re.sub("generations_reconciler_open", "same", ours) == theirs


@pytest.mark.parametrize(
    "check",
    [
        "status IN ('queued', 'success', 'failed', 'it''s')",
        "status = ANY ('{success,failed,paused,\"half done\"}'::text[])",
        "status <> 'queued'",
        "status ~ '^(success|failed)$'",
        "true",
    ],
)
async def test_the_database_function_and_the_daemon_read_a_check_alike(connection: Any, check: str) -> None:
    """Migrations use the function, the daemon its own code."""
    await table(connection, check=check)
    await connection.execute("CREATE SCHEMA reconciler")
    await connection.execute((ROOT / "sql" / "021_allowed_statuses.sql").read_text())
    allowed = await connection.fetchval("SELECT reconciler.allowed_statuses()")
    found = await introspect(connection)
    assert found.statuses == (None if allowed is None else frozenset(allowed))
