"""Migrating databases that are empty, half migrated, fully migrated, or owned by another role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from reconciler.errors import Config, Permanent, Transient
from reconciler.postgres.migrations.migrate import behind, migrate
from reconciler.postgres.migrations.schema_level import ALIVE
from reconciler.postgres.pool import Database
from reconciler.postgres.preflight import missing
from reconciler.postgres.schema import introspect
from testkit.tables import member, older_table, supabase_like
from tests.postgres.catalog import catalog

OWN = (
    "work", "assets", "orphans", "events", "callbacks", "instances", "clock", "creations", "leader", "budget",
    "timings", "pace", "requests", "schema_version", "watching", "hook_calls", "hook_failures", "user_orders",
)  # fmt: skip
OPEN_INDEX = "040_open_index.sql"
FAILED_INDEX = "041_failed_index.sql"


@pytest.fixture
async def connection(empty_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


async def tables(connection: Any) -> set[str]:
    rows = await connection.fetch(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind = 'r'"
        " AND c.relnamespace::regnamespace::text IN ('public', 'reconciler')"
    )
    return {row[0] for row in rows}


async def test_without_the_applications_table_only_our_schema_appears_and_a_warning_says_so(
    empty_dsn: str, connection: Any
) -> None:
    warnings: list[str] = []
    await migrate(empty_dsn, warn=warnings.append)
    assert await tables(connection) == {f"reconciler.{name}" for name in OWN}
    assert any("no table public.generations" in warning for warning in warnings)
    assert await behind(connection) == []
    assert await migrate(empty_dsn) == []


async def test_an_empty_database_gets_the_table_of_the_specification(empty_dsn: str, connection: Any) -> None:
    await migrate(empty_dsn, application=True)
    table = await introspect(connection)
    assert {
        "kind": "text",
        "model_key": "text",
        "options": "jsonb",
        "result_urls": "jsonb",
        "asset_urls": "jsonb",
    }.items() <= (table.columns.items())
    for column in ("prompt", "preview_url", "error", "updated_at", "provider"):
        assert table.has(column)
    assert table.statuses == frozenset({"queued", "generating", "success", "failed", "cancelled"})
    generation = await connection.fetchrow("INSERT INTO public.generations (user_id) VALUES (NULL) RETURNING *")
    assert (generation["provider"], generation["status"]) == ("kie", "queued")


async def test_a_second_migration_changes_nothing(empty_dsn: str, connection: Any) -> None:
    assert await migrate(empty_dsn, application=True)
    before = await catalog(connection), await connection.fetch("SELECT * FROM reconciler.schema_version")
    assert await migrate(empty_dsn, application=True) == []
    assert await migrate(empty_dsn) == []
    after = await catalog(connection), await connection.fetch("SELECT * FROM reconciler.schema_version")
    assert after == before


async def test_a_table_that_appears_later_gets_its_triggers_and_index(empty_dsn: str, connection: Any) -> None:
    await migrate(empty_dsn)
    await older_table(connection)
    assert set(await behind(connection)) == {"031_triggers.sql", "078_delete_right.sql", OPEN_INDEX, FAILED_INDEX}
    assert {"031_triggers.sql", OPEN_INDEX} <= set(await migrate(empty_dsn))
    assert await behind(connection) == []


async def test_plain_migrate_leaves_columns_and_checks_alone(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    before = await catalog(connection)
    rows = await connection.fetch("SELECT * FROM public.generations ORDER BY id")
    await migrate(empty_dsn)
    after = await catalog(connection)
    theirs = {name for name in before if "generations" in name and name.split()[0] in ("constraint", "function")}
    assert {name: after[name] for name in theirs} == {name: before[name] for name in theirs}
    assert {name for name in after if name.startswith("column generations.")} == (
        {name for name in before if name.startswith("column generations.")}
    )
    assert await connection.fetch("SELECT * FROM public.generations ORDER BY id") == rows


@pytest.mark.parametrize("application", [False, True])
async def test_two_migrations_at_once_share_the_work(empty_dsn: str, connection: Any, application: bool) -> None:
    await older_table(connection)
    both = await asyncio.gather(*(migrate(empty_dsn, application=application) for _ in range(3)))
    done = [name for files in both for name in files]
    assert len(done) == len(set(done))
    assert {OPEN_INDEX, "031_triggers.sql"} <= set(done)
    assert await behind(connection) == []


async def test_a_file_that_changed_is_applied_again(empty_dsn: str, connection: Any) -> None:
    await migrate(empty_dsn)
    await connection.execute("UPDATE reconciler.schema_version SET sha256 = 'older' WHERE file = '050_views.sql'")
    assert await behind(connection) == ["050_views.sql"]
    assert await migrate(empty_dsn) == ["050_views.sql"]
    assert await behind(connection) == []


async def test_an_empty_database_is_behind_on_every_file_of_ours(connection: Any) -> None:
    missing = await behind(connection)
    assert missing[:2] == ["010_reconciler_schema.sql", "020_reconciler_tables.sql"]
    assert not any(name.startswith("application/") for name in missing)


async def test_triggers_dropped_by_hand_come_back(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    await migrate(empty_dsn)
    await connection.execute("DROP TRIGGER reconciler_inserted_3 ON public.generations")
    assert await migrate(empty_dsn) == ["031_triggers.sql"]


async def test_a_disabled_trigger_stays_disabled(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    await migrate(empty_dsn)
    await connection.execute("ALTER TABLE public.generations DISABLE TRIGGER reconciler_inserted_3")
    assert await migrate(empty_dsn) == []


async def test_an_index_of_the_application_is_enough(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    await connection.execute("CREATE INDEX theirs ON public.generations (task_id, status)")
    files = await migrate(empty_dsn, application=True)
    assert "application/180_task_index.sql" not in files
    assert "application/181_user_index.sql" in files


async def test_strict_statuses_without_application_is_wrong_usage(empty_dsn: str) -> None:
    with pytest.raises(Config, match="--application"):
        await migrate(empty_dsn, strict_statuses=True)


async def test_an_address_with_an_unknown_parameter_raises_config(empty_dsn: str) -> None:
    with pytest.raises(Config, match=r'DATABASE_URL: .*"schema"'):
        await migrate(f"{empty_dsn}?schema=public")


async def test_a_login_that_may_create_nothing_gets_a_hint(empty_dsn: str) -> None:
    async with member(empty_dsn) as stranger:
        with pytest.raises(Config) as refused:
            await migrate(stranger)
    assert "010_reconciler_schema.sql" in str(refused.value)
    assert "--print" in refused.value.hint


async def test_a_login_without_rights_in_our_schema_is_given_the_role_it_needs(empty_dsn: str, connection: Any) -> None:
    await migrate(empty_dsn)
    async with member(empty_dsn) as address:
        stranger = await asyncpg.connect(address)
        with pytest.raises(Config) as refused:
            await behind(stranger)
        await connection.execute(refused.value.hint.partition(": ")[2])
        assert await behind(stranger) == []
        await stranger.close()


async def test_it_gets_the_same_hint_where_one_transaction_asks_everything(empty_dsn: str) -> None:
    await migrate(empty_dsn)
    async with member(empty_dsn) as address:
        database = Database(address, size=1)
        with pytest.raises(Config) as refused:
            await missing(database, ALIVE)
        await database.close()
    login = urlsplit(address).username
    assert refused.value.hint.endswith(f": GRANT reconciler TO {login};")


async def test_a_table_of_another_owner_is_left_alone_with_warnings(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    before = {name: what for name, what in (await catalog(connection)).items() if "generations" in name}
    warnings: list[str] = []
    async with member(empty_dsn) as stranger:
        login, database = stranger.split("//")[1].split(":")[0], empty_dsn.rpartition("/")[2]
        await connection.execute(f"GRANT CREATE ON DATABASE {database} TO {login}")
        files = await migrate(stranger, warn=warnings.append)
        after = {name: what for name, what in (await catalog(connection)).items() if "generations" in name}
    assert "020_reconciler_tables.sql" in files
    assert not {"031_triggers.sql", OPEN_INDEX} & set(files)
    assert any(warning.startswith("031_triggers.sql left out") for warning in warnings)
    assert any(warning.startswith(OPEN_INDEX) for warning in warnings)
    assert {name: after[name] for name in before} == before


async def test_a_database_owner_who_is_no_superuser_can_migrate_everything(empty_dsn: str, connection: Any) -> None:
    """So it is at Supabase, where storage belongs to yet another role."""
    await supabase_like(connection)
    warnings: list[str] = []
    async with member(empty_dsn, options="CREATEROLE BYPASSRLS") as owner:
        login, database = owner.split("//")[1].split(":")[0], empty_dsn.rpartition("/")[2]
        await connection.execute(
            f"GRANT ALL ON DATABASE {database} TO {login}; GRANT ALL ON SCHEMA public TO {login};"
            f"GRANT USAGE ON SCHEMA storage, auth TO {login}; GRANT ALL ON ALL TABLES IN SCHEMA storage TO {login}"
        )
        await migrate(owner, application=True, warn=warnings.append)
        assert await behind(connection) == []
        assert await migrate(owner, application=True) == []
        assert await connection.fetchval("SELECT public FROM storage.buckets WHERE id = 'generations'") is True
    assert [warning for warning in warnings if "storage policies" in warning] == warnings


@pytest.mark.parametrize("password", ["wrong"])
async def test_a_wrong_password_is_reported_and_not_printed(empty_dsn: str, password: str) -> None:
    async with member(empty_dsn) as address:
        before, _, after = address.partition("@")
        with pytest.raises(Config) as refused:
            await migrate(f"{before.rpartition(':')[0]}:{password}@{after}")
    assert password not in str(refused.value) + refused.value.hint


async def test_a_database_that_is_away_raises_transient() -> None:
    with pytest.raises(Transient):
        await migrate("postgresql://nobody:secret@127.0.0.1:1/none")


async def test_a_view_in_the_tables_place_costs_speed_only(empty_dsn: str, connection: Any) -> None:
    await older_table(connection)
    await connection.execute(
        "ALTER TABLE public.generations RENAME TO kept; CREATE VIEW public.generations AS SELECT * FROM public.kept"
    )
    warnings: list[str] = []
    await migrate(empty_dsn, warn=warnings.append)
    assert {warning.split()[0] for warning in warnings} == {"031_triggers.sql", OPEN_INDEX, FAILED_INDEX}


async def test_a_table_that_cannot_be_brought_up_is_named_with_the_reason(empty_dsn: str, connection: Any) -> None:
    await connection.execute(
        "CREATE TYPE public.word AS ENUM ('pending', 'completed');"
        "CREATE TABLE public.generations (id uuid PRIMARY KEY, status public.word NOT NULL)"
    )
    with pytest.raises(Permanent, match=r"application/120_statuses\.sql"):
        await migrate(empty_dsn, application=True)
