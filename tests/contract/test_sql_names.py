"""N6: nothing that a stranger makes in schema public is called by a statement of ours.

The plants there fit our calls better than PostgreSQL's own functions and operators do. Each statement is also made the
body of an SQL function, for which PostgreSQL keeps what its names mean.
"""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from reconciler.postgres import connection as connections
from reconciler.postgres.claims.claims import Claims
from reconciler.postgres.create_rates import CreateRates
from reconciler.postgres.create_requests import CreateRequests
from reconciler.postgres.heartbeat import Heartbeat
from reconciler.postgres.hooks import DeliveredHook
from reconciler.postgres.inbox import CallbackMessage, Inbox
from reconciler.postgres.ledger.reopen import Reopener
from reconciler.postgres.ledger.verification import VerificationQueue
from reconciler.postgres.migrations.migrate import migrate
from reconciler.postgres.orphans import Orphans
from reconciler.postgres.outbox import Outbox
from reconciler.postgres.pool import Database
from reconciler.postgres.predicates import IN_FLIGHT, OPEN_OR_UNHEALED, TASK_ID_IS_INDEXED
from reconciler.postgres.qualify import qualified
from reconciler.postgres.reports.activity import ActivityReader
from reconciler.postgres.reports.change_feed import ChangeFeed
from reconciler.postgres.reports.generation_list import GenerationList
from reconciler.postgres.reports.reports import Reports, ReportScope
from reconciler.postgres.retention import Retention
from reconciler.postgres.schema import TableShape, introspect
from reconciler.postgres.statement import Statement
from reconciler.postgres.stuck import StuckRows
from testkit.plants import calls, plant
from testkit.tables import member
from tests.contract.life import REACH, Life

ROOT = Path(__file__).resolve().parents[2]

_TABLE = """
CREATE TABLE public.generations (
    id {id} PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, kind {word}, model_key {word},
    provider {word} DEFAULT 'kie', task_id {word}, status {word} NOT NULL DEFAULT 'queued',
    prompt text, options jsonb NOT NULL DEFAULT '{{}}',
    result_urls jsonb, asset_url {word}, asset_urls text[], preview_url {word}, error {word},
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now())"""

CONSTANTS = {id(each) for each in gc.get_objects() if isinstance(each, Statement)}
"""The statements of modules: others are made for a table."""

# Returns the functions and operators outside PostgreSQL's own that a function's body uses. Those of the server's
# beginning are pinned and have no entry.
_USED = """
SELECT DISTINCT pg_catalog.pg_describe_object(refclassid, refobjid, refobjsubid) AS what
  FROM pg_catalog.pg_depend WHERE classid = 1255::oid AND objid = $1::text::regprocedure::oid
   AND refclassid IN (1255::oid, 2617::oid)"""

_SEARCH_PATHS = """
SELECT p.oid::regprocedure::text, p.proconfig::text FROM pg_proc p
 WHERE p.pronamespace = 'reconciler'::regnamespace"""


@dataclass(frozen=True, slots=True)
class Tables:
    """The application's table: the type of its words, of its id, and the schema in which citext is."""

    word: str
    id: str = "uuid"
    citext: str | None = None


TABLES = [
    pytest.param(Tables("text"), id="text"),
    pytest.param(Tables("varchar(200)"), id="varchar"),
    pytest.param(Tables("public.citext", citext="public"), id="citext in public"),
    pytest.param(Tables("extensions.citext", citext="extensions"), id="citext in extensions"),
]


async def table_as(dsn: str, tables: Tables) -> None:
    """Make the application's table with these types, and migrate."""
    owner = await asyncpg.connect(dsn)
    if tables.citext:
        if not await owner.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'"):
            pytest.skip("needs the extension citext, which is not installed")
        await owner.execute(
            f"CREATE SCHEMA IF NOT EXISTS {tables.citext}; CREATE EXTENSION citext SCHEMA {tables.citext}"
        )
        await owner.execute(f"GRANT USAGE ON SCHEMA {tables.citext} TO PUBLIC")
    await owner.execute(_TABLE.format(word=tables.word, id=tables.id))
    await owner.close()
    await migrate(dsn)


@asynccontextmanager
async def planted(dsn: str) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """Let a stranger plant; yield the owner's session, whose search_path is empty, and the address of the daemon."""
    owner = await asyncpg.connect(dsn, server_settings={"search_path": ""})
    async with member(dsn) as strangers, member(dsn, "reconciler") as address:
        stranger = await asyncpg.connect(strangers)
        await plant(owner, stranger)
        await stranger.close()
        yield owner, address
        assert await calls(owner) == 0
    await owner.close()


def parts(database: Database, table: TableShape) -> Sequence[object]:
    """Everything that has statements of its own."""
    scope = ReportScope()
    return (
        Claims(database, table, REACH, instance=uuid4(), term=30, traced=True), Inbox(database, table),
        Reports(database, table), GenerationList(database, table, scope), ChangeFeed(database, table),
        CreateRequests(database, table, rates=CreateRates(database, rate=5, user_rate=5), provider="kie"),
        Retention(database, table, term=30), Orphans(database, table), DeliveredHook(database, table),
        VerificationQueue(database, table, term=30), Reopener(database, table, term=30), Outbox(database),
        Heartbeat(database, uuid4(), term=30), ActivityReader(database, alive=timedelta(seconds=60)),
        StuckRows(database, table, scope),
    )  # fmt: skip


async def foreign(session: asyncpg.Connection, statements: Iterable[str]) -> dict[str, list[str]]:
    """Return what each statement calls outside PostgreSQL's own functions and operators and our schema."""
    found = {}
    for text in sorted(statements):
        if not re.match(r"\s*(?:SELECT|WITH|INSERT|UPDATE|DELETE)\b", text):
            continue
        transaction = session.transaction()
        await transaction.start()
        prepared = await session.prepare(text)
        kinds = ", ".join(parameter.name if parameter.schema == "pg_catalog" else f"{parameter.schema}.{parameter.name}"
                          for parameter in prepared.get_parameters())  # fmt: skip
        await session.execute(
            f"CREATE FUNCTION reconciler.asked({kinds}) RETURNS void LANGUAGE sql BEGIN ATOMIC {text}; END"
        )
        used = [row["what"] for row in await session.fetch(_USED, f"reconciler.asked({kinds})")]
        await transaction.rollback()
        if strange := [what for what in used if "reconciler" not in what]:
            found[text] = strange
    return found


@pytest.mark.sample(1)
@pytest.mark.parametrize("tables", TABLES)
async def test_no_statement_means_anything_that_a_stranger_made_N6(
    empty_dsn: str, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    await table_as(empty_dsn, tables)
    said = set[str]()

    def noted(sql: str) -> str:
        said.add(qualified(sql))
        return qualified(sql)

    async with planted(empty_dsn) as (owner, address):
        await owner.execute(
            f"CREATE FUNCTION reconciler.on_failed({tables.id}, text) RETURNS void LANGUAGE sql AS 'SELECT';"
            f"CREATE FUNCTION reconciler.on_failed({tables.id}, text, text) RETURNS void LANGUAGE sql AS 'SELECT';"
            f"CREATE FUNCTION reconciler.on_delivered({tables.id}, text) RETURNS void LANGUAGE sql AS 'SELECT';"
            f"CREATE FUNCTION reconciler.on_order({tables.id}, uuid, text, jsonb) RETURNS void LANGUAGE sql AS 'SELECT'"
        )
        database = Database(address)
        async with database.transaction() as connection:
            table = await introspect(connection)
        before = {id(each) for each in gc.get_objects() if isinstance(each, Statement)} - CONSTANTS
        life, built = Life(database, table), parts(database, table)
        session = await asyncpg.connect(address, connection_class=connections.QualifiedConnection)
        await owner.execute("GRANT CREATE ON SCHEMA reconciler TO reconciler")
        monkeypatch.setattr(connections, "qualified", noted)
        await life.play(owner)
        await ask(built)
        monkeypatch.undo()
        found = [each for each in gc.get_objects() if isinstance(each, Statement) and id(each) not in before]
        assert len(found) > 40
        assert await foreign(session, said | {qualified(each.text) for each in found}) == {}
        await session.close()
        await database.close()


@pytest.mark.parametrize("tables", TABLES)
async def test_the_indexes_are_used_whatever_type_the_words_have(empty_dsn: str, tables: Tables) -> None:
    await table_as(empty_dsn, tables)
    session = await asyncpg.connect(empty_dsn, connection_class=connections.QualifiedConnection)
    await session.execute("SET enable_seqscan = off")

    async def plan(condition: str) -> str:
        rows = await session.fetch(f"EXPLAIN SELECT g.id FROM public.generations g WHERE {condition}")
        return "\n".join(row[0] for row in rows)

    assert "generations_reconciler_open" in await plan(OPEN_OR_UNHEALED)
    assert "generations_reconciler_open" in await plan(IN_FLIGHT)
    assert "generations_reconciler_failed" in await plan("g.status = 'failed' AND g.asset_url IS NULL")
    await session.execute("CREATE INDEX by_task ON public.generations (task_id)")
    searched = "by_task" in await plan("g.task_id = 'task'")
    assert (searched, await session.fetchval(f"SELECT {TASK_ID_IS_INDEXED}")) == ((tables.citext is None,) * 2)
    await session.close()


async def test_an_index_whose_condition_compares_citext_is_built_anew(empty_dsn: str) -> None:
    await table_as(empty_dsn, Tables("public.citext", citext="public"))
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "DROP INDEX generations_reconciler_open;"
        "CREATE INDEX generations_reconciler_open ON public.generations (id) WHERE status IN ('queued', 'generating')"
    )
    assert await migrate(empty_dsn) == ["040_open_index.sql"]
    assert await migrate(empty_dsn) == []
    condition = await connection.fetchval(
        "SELECT pg_get_expr(indpred, indrelid) FROM pg_index WHERE indexrelid = 'generations_reconciler_open'::regclass"
    )
    await connection.close()
    assert "(status)::text = ANY" in condition


async def ask(built: Sequence[Any]) -> None:
    """Ask what the commands, the routes and the rounds ask."""
    _, inbox, reports, listed, feed, _, retention, orphans, hook, verified, reopener, outbox, _, activity, stuck = built
    await inbox.keep(CallbackMessage("task-1", None, {"code": 200}, "digest"))
    await inbox.bodies("task-1")
    await reports.snapshot()
    await reports.status()
    (row,) = await reports.explain("task-1")
    await reports.stuck()
    await reports.unhealed(5)
    await listed.page(None)
    await listed.stuck(None)
    await listed.of_task("task-1", str(uuid4()))
    await feed.of([(row.generation.id, 0)])
    await feed.since(0, None)
    await orphans.page(timedelta(0))
    await retention.failed(timedelta(0))
    await hook.call_next()
    await retention.deserted()
    await retention.enrol()
    await verified.due(5)
    await verified.page(timedelta(days=1))
    await reopener.reopen(row.generation.id)
    await outbox.take(5)
    await activity.watch()
    await activity.look()
    await stuck.mark()


async def test_a_migration_over_plants_calls_none_N6(empty_dsn: str) -> None:
    await table_as(empty_dsn, Tables("varchar(200)"))
    async with planted(empty_dsn) as (owner, _):
        await owner.execute(
            "DROP SCHEMA reconciler CASCADE; INSERT INTO public.generations (status) VALUES ('pending')"
        )
        await migrate(empty_dsn, application=True, strict_statuses=True)
        assert await owner.fetchval("SELECT status::text FROM public.generations") == "queued"


async def test_every_function_of_ours_has_a_search_path_of_its_own(lasting_dsn: str) -> None:
    connection = await asyncpg.connect(lasting_dsn)
    functions = dict(await connection.fetch(_SEARCH_PATHS))
    await connection.close()
    assert len(functions) > 4
    assert {name for name, paths in functions.items() if "search_path" not in (paths or "")} == set()


def test_only_qualified_connections_send_statements() -> None:
    """The demo connects as the shop that it plays."""
    opening = []
    for path in (ROOT / "reconciler").rglob("*.py"):
        if path.is_relative_to(ROOT / "reconciler" / "demo"):
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or ast.unparse(call.func) not in {
                "asyncpg.connect",
                "asyncpg.create_pool",
            }:
                continue
            kinds = [ast.unparse(word.value) for word in call.keywords if word.arg == "connection_class"]
            opening.append((path.name, kinds))
    assert len(opening) == 5
    assert [each for each in opening if each[1] not in (["QualifiedConnection"], ["PlainConnection"])] == []
