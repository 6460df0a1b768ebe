"""The role reconciler can do everything that `run` does, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from reconciler.errors import Config
from reconciler.postgres.migrations.migrate import behind, migrate
from reconciler.postgres.pool import Database
from reconciler.postgres.retention import Retention
from reconciler.postgres.schema import WRITTEN, introspect
from testkit.tables import member, older_table
from tests.contract.life import Life, queued

UNSECURED = "ALTER TABLE public.generations DISABLE ROW LEVEL SECURITY"


@pytest.fixture
async def owner(lasting_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(lasting_dsn)
    await connection.execute(
        "TRUNCATE public.generations, reconciler.work, reconciler.events, reconciler.assets;"
        "ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY"
    )
    yield connection
    await connection.close()


@pytest.fixture
async def life(lasting_dsn: str, owner: Any) -> AsyncIterator[Life]:
    """The daemon under a login with the rights of the role only."""
    async with member(lasting_dsn, "reconciler") as address:
        database = Database(address)
        async with database.transaction() as connection:
            table = await introspect(connection)
        yield Life(database, table)
        await database.close()


@pytest.mark.parametrize("secured", [True, False])
async def test_it_can_do_everything_that_the_daemon_does(life: Life, owner: Any, secured: bool) -> None:
    if not secured:
        await owner.execute(UNSECURED)
    staying = await life.play(owner)
    assert await life.tell() == 0
    await owner.execute("DELETE FROM public.generations WHERE id = $1::text::uuid", await life.order("of-the-role"))
    assert dict(await owner.fetch("SELECT id::text, status FROM public.generations")) == staying


async def test_it_can_deliver_into_a_table_that_keeps_the_document_of_a_result(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER TABLE public.generations ADD IF NOT EXISTS result_json jsonb")
    await migrate(dsn)
    (delivered,) = await queued(connection, 1)
    async with member(dsn, "reconciler") as address:
        database = Database(address)
        async with database.transaction() as session:
            life = Life(database, await introspect(session))
        assert await life.deliver(delivered) == "succeeded"
        await database.close()
    await connection.close()


async def test_it_can_read_what_doctor_and_check_ask(life: Life) -> None:
    async with life.database.transaction() as connection:
        assert await behind(connection) == []


async def test_it_can_call_the_applications_hook(life: Life, owner: Any) -> None:
    """Made after the migration, by the application, with the application's rights."""
    await owner.execute(
        "CREATE TABLE public.refunds (generation uuid, reason text);"
        "CREATE FUNCTION reconciler.on_failed(generation_id uuid, reason text) RETURNS void"
        " LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO public.refunds VALUES ($1, $2)'"
    )
    (failing,) = await queued(owner, 1)
    await life.fail(failing)
    refunds = await owner.fetch("SELECT generation::text, reason FROM public.refunds")
    assert [tuple(row) for row in refunds] == [(failing, "refused (500)")]
    await owner.execute("DROP FUNCTION reconciler.on_failed; DROP TABLE public.refunds")


async def test_it_can_call_the_hooks_of_orders_and_deliveries(life: Life, owner: Any) -> None:
    await owner.execute(
        "CREATE TABLE public.seen (what text);"
        "CREATE FUNCTION reconciler.on_order(generation_id uuid, user_id uuid, model text, input jsonb) RETURNS void"
        " LANGUAGE sql SECURITY DEFINER AS $$INSERT INTO public.seen VALUES ('order')$$;"
        "CREATE FUNCTION reconciler.on_delivered(generation_id uuid, task_id text) RETURNS void"
        " LANGUAGE sql SECURITY DEFINER AS $$INSERT INTO public.seen VALUES ('delivered')$$;"
    )
    await life.order("with-hooks")
    (delivered,) = await queued(owner, 1)
    await life.deliver(delivered)
    assert await life.tell() == 1
    assert [row[0] for row in await owner.fetch("SELECT what FROM public.seen")] == ["order", "delivered"]
    await owner.execute(
        "DROP FUNCTION reconciler.on_order; DROP FUNCTION reconciler.on_delivered; DROP TABLE public.seen;"
        "DELETE FROM reconciler.hook_calls"
    )


async def test_it_can_add_a_row_of_its_own_and_write_its_task(life: Life) -> None:
    made = await life.database.value(
        "INSERT INTO public.generations (user_id, kind, model_key, provider, prompt, options)"
        " VALUES (gen_random_uuid(), 'image', 'flux', 'kie', 'a cat', '{}') RETURNING id"
    )
    await life.database.execute(
        "UPDATE public.generations SET task_id = 'task', updated_at = now() WHERE id = $1", made
    )


@pytest.mark.parametrize("secured", [True, False])
async def test_retention_deletes_old_failures_without_results(life: Life, owner: Any, secured: bool) -> None:
    if not secured:
        await owner.execute(UNSECURED)
    await queued(owner, 3)
    await owner.execute(
        "UPDATE public.generations SET created_at = now() - interval '40 days';"
        "UPDATE public.generations SET updated_at = created_at;"
        "UPDATE public.generations SET status = 'failed' WHERE task_id = 'task-1';"
        "UPDATE public.generations SET status = 'success', asset_url = 'https://ours/2.png' WHERE task_id = 'task-2'"
    )
    assert (await Retention(life.database, life.table, term=30).failed(timedelta(days=30))).count == 1
    left = await owner.fetch("SELECT task_id FROM public.generations ORDER BY 1")
    assert [row[0] for row in left] == ["task-2", "task-3"]


@pytest.mark.parametrize("secured", [True, False])
async def test_it_cannot_delete_anything_but_a_failed_row_with_nothing_stored_N6(
    life: Life, owner: Any, secured: bool
) -> None:
    if not secured:
        await owner.execute(UNSECURED)
    ids = await queued(owner, 3)
    await owner.execute(
        "UPDATE public.generations SET status = 'failed', asset_url = 'https://ours/2.png' WHERE task_id = 'task-2';"
        "UPDATE public.generations SET status = 'failed' WHERE task_id = 'task-3'"
    )
    with pytest.raises(Config, match="permission denied"):
        await life.database.execute("DELETE FROM public.generations")
    deleted = await life.database.fetch("SELECT reconciler.delete_failed($1)", ids)
    assert [row[0] for row in deleted] == [ids[2]]
    assert await owner.fetchval("SELECT count(*) FROM public.generations") == 2


async def test_a_trigger_that_names_its_table_without_a_schema_runs_when_a_failed_row_is_deleted(
    dsn: str,
) -> None:
    owner = await asyncpg.connect(dsn)
    await owner.execute("""
        CREATE TABLE public.graveyard (id text);
        CREATE FUNCTION public.bury() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO graveyard VALUES (OLD.id::text); RETURN OLD; END $$;
        CREATE TRIGGER bury BEFORE DELETE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.bury()""")
    (failed,) = await queued(owner, 1)
    await owner.execute(
        "UPDATE public.generations SET status = 'failed', created_at = now() - interval '40 days',"
        " updated_at = now() - interval '40 days';"
        "ALTER TABLE public.generations DISABLE ROW LEVEL SECURITY"
    )
    async with member(dsn, "reconciler", "") as address:
        database = Database(address + "?options=-csearch_path%3Dpg_catalog")
        async with database.transaction() as connection:
            table = await introspect(connection)
        assert (await Retention(database, table, term=30).failed(timedelta(days=30))).count == 1
        await database.close()
    assert await owner.fetch("SELECT id FROM public.graveyard") == [(failed,)]
    await owner.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE public.generations SET user_id = gen_random_uuid()",
        "UPDATE public.generations SET prompt = ''",
        "UPDATE public.generations SET created_at = now()",
        "UPDATE public.generations SET id = gen_random_uuid()",
        "TRUNCATE public.generations",
        "ALTER TABLE public.generations ADD COLUMN more text",
        "ALTER TABLE public.generations DISABLE ROW LEVEL SECURITY",
        "DROP TABLE public.generations",
        "CREATE TABLE public.more ()",
        "CREATE TABLE reconciler.more ()",
        "DROP TABLE reconciler.work",
        "TRUNCATE reconciler.work",
        "UPDATE reconciler.schema_version SET sha256 = ''",
        "DELETE FROM reconciler.schema_version",
        "SELECT public.cleanup_old_failed_generations(0)",
        "CREATE ROLE more",
    ],
)
async def test_it_can_do_nothing_more(undone: Any, statement: str) -> None:
    await undone.execute("SET LOCAL ROLE reconciler")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await undone.execute(statement)


async def test_it_reads_no_other_table_of_the_application(undone: Any) -> None:
    await undone.execute("CREATE TABLE public.theirs (secret text); SET LOCAL ROLE reconciler")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await undone.execute("SELECT FROM public.theirs")


async def test_it_cannot_log_in_and_passes_no_row_security(undone: Any) -> None:
    role = await undone.fetchrow("SELECT * FROM pg_roles WHERE rolname = 'reconciler'")
    powers = ("rolcanlogin", "rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolreplication")
    assert not any(role[power] for power in powers)


async def test_nobody_else_reaches_our_schema(lasting_dsn: str) -> None:
    async with member(lasting_dsn) as address:
        stranger = await asyncpg.connect(address)
        try:
            for statement in ("SELECT FROM reconciler.work", "SELECT reconciler.allowed_statuses()"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await stranger.execute(statement)
        finally:
            await stranger.close()


async def test_in_an_older_table_it_may_write_just_the_columns_that_the_daemon_writes(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await older_table(connection)
    await connection.execute(
        "ALTER TABLE public.generations ADD error_message text, ADD original_path text, ADD preview_status text,"
        " ADD preview_url text, ADD completed_at timestamptz, ADD asset_urls text[], ADD result_json jsonb"
    )
    await migrate(empty_dsn)
    columns = await connection.fetch(
        "SELECT attname, has_column_privilege('reconciler', attrelid, attnum, 'UPDATE') FROM pg_attribute"
        " WHERE attrelid = 'public.generations'::regclass AND attnum > 0"
    )
    await connection.close()
    assert {name for name, may in columns if may} == set(WRITTEN)
