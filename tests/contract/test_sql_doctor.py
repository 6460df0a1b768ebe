"""N6: `doctor` calls nothing that a stranger made in schema public."""

from __future__ import annotations

import asyncpg
import pytest

from reconciler.operations.doctor import storage, storage_policies
from reconciler.postgres import connection as connections
from reconciler.postgres.pool import Database
from reconciler.postgres.qualify import qualified
from reconciler.postgres.reports import recent_rows
from reconciler.postgres.schema import introspect
from reconciler.postgres.statement import Statement
from tests.contract.test_sql_names import TABLES, Tables, foreign, planted, table_as


@pytest.mark.sample(1)
@pytest.mark.parametrize("tables", TABLES)
async def test_no_statement_of_doctor_means_anything_that_a_stranger_made_N6(empty_dsn: str, tables: Tables) -> None:
    await table_as(empty_dsn, tables)
    async with planted(empty_dsn) as (owner, address):
        database = Database(address)
        async with database.transaction() as connection:
            table = await introspect(connection)
        recent = recent_rows.RecentRows(database, table, ("kie",))
        modules = (storage, storage_policies, recent_rows)
        statements = [each for module in modules for each in vars(module).values() if isinstance(each, Statement)]
        statements += [each for each in vars(recent).values() if isinstance(each, Statement)]
        assert len(statements) == 6
        session = await asyncpg.connect(address, connection_class=connections.QualifiedConnection)
        await owner.execute("GRANT CREATE ON SCHEMA reconciler TO reconciler")
        assert await foreign(session, {qualified(each.text) for each in statements}) == {}
        await session.close()
        await database.close()
