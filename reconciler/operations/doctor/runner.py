"""`Doctor` makes every check in order, and leaves out those for which an earlier one failed.

Built in `bootstrap/`, called by the command `doctor`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import asyncpg
import httpx

from reconciler.kie.client import KieClient
from reconciler.media.spool import SpoolDirectory
from reconciler.operations.doctor import (
    NAMES,
    Check,
    NotKnown,
    attempt,
    database,
    hooks,
    judged,
    not_looked,
    privileges,
    table,
)
from reconciler.operations.doctor.activity import RowReaders, check_activity
from reconciler.operations.doctor.callback import check_callback
from reconciler.operations.doctor.database import DatabaseConnection, DatabaseServer
from reconciler.operations.doctor.kie import NewestTask, check_kie, read_newest_tasks
from reconciler.operations.doctor.search_path import judge_search_path, read_search_path
from reconciler.operations.doctor.settings import check_http_port, judge_settings, judge_spelling
from reconciler.operations.doctor.storage import BucketUse, check_storage, read_bucket_use
from reconciler.operations.doctor.storage_policies import judge_storage_policies, read_storage_policies
from reconciler.postgres.eligibility import UNREADABLE, readable
from reconciler.postgres.migrations.missing_files import missing_files
from reconciler.postgres.migrations.schema_level import alive_within
from reconciler.postgres.schema import shape, statuses
from reconciler.settings import Settings
from reconciler.storage import Store

T = TypeVar("T")

_ACTIVITY = NAMES[NAMES.index("preflight") : NAMES.index("spool")]
_UNUSABLE = "the database cannot be used"
_ANY_USE = BucketUse()
_NO_TASKS = NotKnown("the database cannot be asked for tasks")

Question = Callable[[asyncpg.Connection], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _DatabaseReport:
    """The checks of the database, and what other checks need from it.

    `versions` are the daemons alive, None where the database cannot be used. `unreadable` is the error where PostgreSQL
    cannot read RECONCILER_TASK_PATTERN.
    """

    checks: list[Check]
    versions: Mapping[str, int] | NotKnown | None = None
    unreadable: NotKnown | None = None
    use: BucketUse | NotKnown = _ANY_USE
    newest: tuple[NewestTask, ...] | NotKnown = _NO_TASKS


@dataclass(frozen=True, slots=True)
class Doctor:
    """Makes the checks; each step takes `within` seconds at most, `now` is this machine's Unix time."""

    settings: Settings
    store: Store
    open_spool: Callable[[], SpoolDirectory]
    open_readers: Callable[[], AbstractAsyncContextManager[RowReaders]]
    kie: KieClient
    client: httpx.AsyncClient
    within: float = 10.0
    now: Callable[[], float] = time.time

    async def examine(self, unknown_names: Sequence[str] = ()) -> tuple[Check, ...]:
        """Make every check; `unknown_names` begin like settings and are none."""
        settings, within = self.settings, self.within
        report = await self._examine_database()
        activity = await self._examine_activity(report.versions)
        port, storage, kie, callback = await asyncio.gather(
            check_http_port(settings, self.client, within=within),
            check_storage(settings, self.store, self.open_spool, self.client, report.use, within=within),
            check_kie(settings, self.kie, report.newest, within=within, now=self.now),
            check_callback(settings, self.client, within=within),
        )
        return (
            judge_settings(settings, report.unreadable),
            judge_spelling(unknown_names),
            port,
            *report.checks,
            *activity,
            *storage,
            *kie,
            callback,
        )

    async def _examine_database(self) -> _DatabaseReport:
        dsn = self.settings.database_url.get_secret_value()
        async with AsyncExitStack() as stack:

            async def connect() -> asyncpg.Connection:
                return await stack.enter_async_context(database.connected(dsn))

            connection = await attempt(connect, within=self.within)
            if isinstance(connection, NotKnown):
                return _unusable(connection)
            server = await attempt(lambda: database.read_server(connection, self.now), within=self.within)
            if isinstance(server, NotKnown) or server.version[0] < database.OLDEST_VERSION:
                return _unusable(server)
            way = await self._read_connection(connection, await attempt(connect, within=self.within))
            checks = [
                database.judge_server(server),
                database.judge_connection(way),
                database.judge_listen(way),
                database.judge_database_clock(server),
            ]
            return await self._examine_tables(connection, checks)

    async def _examine_activity(self, versions: Mapping[str, int] | NotKnown | None) -> list[Check]:
        if versions is None:
            return [not_looked(name, _UNUSABLE) for name in _ACTIVITY]
        return await check_activity(self.settings, self.open_readers, versions, within=self.within)

    async def _read_connection(
        self, connection: asyncpg.Connection, other: asyncpg.Connection | NotKnown
    ) -> DatabaseConnection | NotKnown:
        if isinstance(other, NotKnown):
            return other
        return await attempt(
            lambda: database.read_connection(connection, other, within=self.within / 2), within=2 * self.within
        )

    async def _examine_tables(self, connection: asyncpg.Connection, checks: list[Check]) -> _DatabaseReport:
        async def read(question: Callable[[asyncpg.Connection], Awaitable[T]]) -> T | NotKnown:
            """Ask in a transaction of its own: an error must not spoil the next question."""
            pinned = question is not read_search_path
            return await attempt(
                lambda: database.read_only(connection, lambda: question(connection), pinned=pinned), within=self.within
            )

        settings = self.settings
        pattern = await read(lambda asked: readable(asked.fetchval, settings.task_pattern))
        unreadable = pattern if pattern is not None and pattern.code == UNREADABLE else None
        columns = await read(table.read_columns)
        names = columns if isinstance(columns, NotKnown) else frozenset(columns)
        known_alive = alive_within(settings.lease_seconds)
        missing = await read(lambda asked: missing_files(asked, known_alive))
        checks = [*checks, table.judge_schema(missing), table.judge_table(names)]
        alive = timedelta(seconds=2 * settings.lease_seconds)
        versions = await read(lambda asked: database.read_versions(asked, alive))
        table_checks = _table_checks(settings)
        if isinstance(columns, NotKnown) or not columns:
            skipped = [not_looked(name, "there is no table to look at") for name in table_checks]
            return _DatabaseReport([*checks, *skipped], versions, unreadable)
        for name, (question, judge) in table_checks.items():
            checks.append(judged(name, await read(question), judge))
        return _DatabaseReport(
            checks,
            versions,
            unreadable,
            use=await read(lambda asked: read_bucket_use(asked, columns)),
            newest=await read(lambda asked: read_newest_tasks(asked, columns)),
        )


def _table_checks(settings: Settings) -> dict[str, tuple[Question, Callable[[Any], Check]]]:
    """Return how each check of the table is read and judged."""
    deletes, users_order = settings.failed_retention_days > 0, settings.orders == "users"
    bucket, local = settings.storage_bucket, settings.storage_backend == "local"
    return {
        "statuses": (statuses, table.judge_statuses),
        "triggers": (table.read_triggers, table.judge_triggers),
        "indexes": (table.read_indexes, table.judge_indexes),
        "privileges": (partial(privileges.read_rights, deletes=deletes), privileges.judge_privileges),
        "row_security": (privileges.read_open_access, privileges.judge_row_security),
        "storage_policies": (read_storage_policies, partial(judge_storage_policies, bucket=bucket, local=local)),
        "search_path": (read_search_path, judge_search_path),
        "hooks": (hooks.read_hooks, partial(hooks.judge_hooks, users_order=users_order)),
        "orders": (shape, table.judge_orders),
        "realtime": (database.read_publications, database.judge_realtime),
    }


def _unusable(server: DatabaseServer | NotKnown) -> _DatabaseReport:
    names = NAMES[NAMES.index("database") + 1 : NAMES.index("preflight")]
    skipped = [not_looked(name, _UNUSABLE) for name in names]
    return _DatabaseReport([database.judge_server(server), *skipped])
