"""The application's table changes: the reader takes the new one, says why one is unusable, and goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from reconciler.errors import TableChanged
from reconciler.postgres.pool import Database
from reconciler.postgres.schema import TableShape, introspect
from reconciler.postgres.table_reader import PerShape, TableReader
from tests.postgres.books import Books, opened

TRIGGER = """
CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER keep BEFORE UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.keep();
"""
CHANGES = {
    "a column": "ALTER TABLE public.generations ADD COLUMN more text",
    "a type": "ALTER TABLE public.generations ALTER COLUMN error TYPE varchar(200)",
    "a default": "ALTER TABLE public.generations ALTER COLUMN asset_urls SET DEFAULT '[]'",
    "a check": "ALTER TABLE public.generations ADD CHECK (length(asset_url) < 5000)",
    "a policy": "CREATE POLICY strict ON public.generations AS RESTRICTIVE USING (true)",
    "a trigger": TRIGGER,
}
REPLACED = "CREATE OR REPLACE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$"


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Books]:
    """The tables of a database that the test may change."""
    async with opened(dsn) as found:
        yield found


async def reader_of(books: Books) -> TableReader:
    async with books.database.transaction() as connection:
        return TableReader(books.database, await introspect(connection))


async def test_a_table_that_nobody_changed_is_the_same_one_however_often_it_is_read(own: Books) -> None:
    reader = await reader_of(own)
    shape = reader.shape
    await own.insert()
    await own.pool.execute("ANALYZE public.generations")
    assert await reader.read() is False
    assert reader.shape is shape


@pytest.mark.parametrize("name", CHANGES)
async def test_whatever_changes_what_the_table_takes_makes_it_another_one(own: Books, name: str) -> None:
    reader = await reader_of(own)
    await own.pool.execute(CHANGES[name])
    assert await reader.read() is True
    assert await reader.read() is False


async def test_a_new_body_of_a_triggers_function_makes_it_another_table(own: Books) -> None:
    await own.pool.execute(TRIGGER)
    reader = await reader_of(own)
    await own.pool.execute(REPLACED)
    assert await reader.read() is True


class Interrupted:
    """A session that is interrupted after its first rows by a change of the table."""

    def __init__(self, connection: Any, pool: asyncpg.Pool, change: str) -> None:
        self._connection = connection
        self._pool = pool
        self._changes = [change]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetch(self, sql: str, *arguments: object) -> Any:
        rows = await self._connection.fetch(sql, *arguments)
        if self._changes:
            await self._pool.execute(self._changes.pop())
        return rows


async def test_a_change_in_the_middle_of_a_read_is_found_by_the_next_one(own: Books) -> None:
    async with own.database.transaction() as connection:
        shape = await introspect(Interrupted(connection, own.pool, CHANGES["a column"]))
    reader = TableReader(own.database, shape)
    assert not shape.has("more")
    assert await reader.read() is True
    assert reader.shape.has("more")


async def test_a_table_that_is_away_says_so_to_everybody_who_asks_until_it_is_back(own: Books) -> None:
    reader = await reader_of(own)
    await own.pool.execute("ALTER TABLE public.generations RENAME TO away")
    assert await reader.read() is False
    assert reader.trouble == "there is no table public.generations"
    with pytest.raises(TableChanged, match="there is no table"):
        _ = reader.shape
    await own.pool.execute("ALTER TABLE public.away RENAME TO generations")
    assert await reader.read() is True
    assert (reader.trouble, reader.shape.id_type) == (None, "uuid")


async def test_a_table_that_lacks_a_needed_column_names_it(own: Books) -> None:
    reader = await reader_of(own)
    await own.pool.execute("ALTER TABLE public.generations RENAME COLUMN user_id TO owner_id")
    assert await reader.read() is False
    assert reader.trouble == "public.generations lacks user_id"


def test_statements_are_built_once_for_each_shape_and_kept_for_visits_of_the_former_one() -> None:
    built: list[TableShape] = []

    def build(shape: TableShape) -> int:
        built.append(shape)
        return len(built)

    former, present = TableShape({"id": "uuid"}), TableShape({"id": "text"})
    statements = PerShape(present, build)
    assert [statements.present, statements.of(former), statements.present, statements.of(former)] == [1, 2, 1, 2]


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    found = Database(dsn, size=1)
    yield found
    await found.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT g.never FROM public.generations g",
        "SELECT FROM public.never",
        "UPDATE public.generations SET created_at = 1",
        "SELECT id::int FROM public.generations",
        "SELECT never(id) FROM public.generations",
    ],
    ids=["no column", "no table", "another type", "no cast", "no function"],
)
async def test_a_statement_that_does_not_fit_casts_doubt_on_the_table_and_not_on_the_database(
    database: Database, sql: str
) -> None:
    with pytest.raises(TableChanged):
        await database.execute(sql)
    assert database.table_doubted.is_set()
    assert database.trouble is None


async def test_a_violated_check_casts_doubt_on_the_table(database: Database) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("INSERT INTO public.generations (status) VALUES ('never')")
    assert database.table_doubted.is_set()


async def test_an_error_inside_a_trigger_is_the_applications_and_refuses_the_row(
    own: Books, database: Database
) -> None:
    await own.pool.execute(TRIGGER.replace("RETURN NEW", "PERFORM never.column FROM public.generations AS never"))
    await own.insert()
    with pytest.raises(asyncpg.UndefinedColumnError):
        await database.execute("UPDATE public.generations SET error = 'x'")


async def test_a_trigger_that_raises_casts_doubt_on_the_table(own: Books, database: Database) -> None:
    await own.pool.execute(TRIGGER.replace("RETURN NEW", "RAISE EXCEPTION 'the gallery is full'"))
    await own.insert()
    with pytest.raises(asyncpg.RaiseError):
        await database.execute("UPDATE public.generations SET error = 'x'")
    assert database.table_doubted.is_set()


async def test_a_statement_that_fits_casts_no_doubt(database: Database) -> None:
    await database.execute("SELECT FROM public.generations")
    assert not database.table_doubted.is_set()


async def test_a_transaction_whose_prepared_statement_is_outdated_runs_again(own: Books, database: Database) -> None:
    async def read() -> list[asyncpg.Record]:
        async with database.transaction() as connection:
            return await connection.fetch("SELECT * FROM public.generations")

    await database.run(read)
    await own.pool.execute("ALTER TABLE public.generations ADD COLUMN more text")
    assert await database.run(read) == []
