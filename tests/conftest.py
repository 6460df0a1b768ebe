"""Fixtures of every test: a real PostgreSQL and fresh databases in it.

TEST_DATABASE_URL names a server to use; otherwise one is started per worker, from the programs that
RECONCILER_TEST_PG chooses (`debian` or `embedded`; unset: whichever is found). DATABASE_URL is
never looked at.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
import structlog
from hypothesis import settings as hypothesis_settings

from reconciler.demo.embedded_postgres import Postgres
from reconciler.demo.postgres_programs import debian_binaries, wheel_binaries

T = TypeVar("T")

OURS = ("KIE_", "SUPABASE_", "NEXT_PUBLIC_SUPABASE_", "RECONCILER_", "LOG_", "PG")
OTHERS = ("DATABASE_URL", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET")
KEPT = ("RECONCILER_PG_BIN", "RECONCILER_TEST_PG")

# `--hypothesis-profile=thorough` chooses the other one; `make test-all` does.
hypothesis_settings.register_profile("quick", max_examples=30, deadline=None)
hypothesis_settings.register_profile("thorough", max_examples=300, deadline=None)
hypothesis_settings.load_profile("quick")

_EMPTY = """
DO $$
DECLARE
    filled record;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend';
    FOR filled IN
        SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
         WHERE schemaname IN ('public', 'reconciler') AND tablename <> 'schema_version'
    LOOP
        EXECUTE 'DELETE FROM ' || filled.name;
    END LOOP;
END
$$
"""

# As if a daemon had watched the clock until now: conclusions by elapsed time need no ten minutes then.
_WATCHED = """
INSERT INTO reconciler.clock (seen_at, steady_at) VALUES (now(), now())
ON CONFLICT (single) DO UPDATE SET seen_at = now(), steady_at = now(), stepped_at = NULL
"""


def pytest_configure() -> None:
    """Remove from the environment what it says about a real installation, and collect no garbage until tests run."""
    # Collection only adds objects: looking through them for cycles took a fifth of its time.
    gc.disable()
    for name in list(os.environ):
        if name in OTHERS or (name.startswith(OURS) and name not in KEPT):
            del os.environ[name]
    # A shell without job control starts background processes, and their children, with SIGINT ignored.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--database`: a second PostgreSQL need not run the tests that use none."""
    parser.addoption("--database", action="store_true", help="only tests that ask a PostgreSQL")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as soaks the cases beyond a test's sample, and keep the tests that `--database` means."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for of_one_test in cases.values():
        mark = of_one_test[0].get_closest_marker("sample")
        assert mark is not None
        kept = {len(of_one_test) * n // mark.args[0] for n in range(mark.args[0])}
        for n, item in enumerate(of_one_test):
            if n not in kept:
                item.add_marker(pytest.mark.soak)
    if config.getoption("--database"):
        sorts: dict[bool, list[pytest.Item]] = {True: [], False: []}
        for item in items:
            sorts["pg_programs" in getattr(item, "fixturenames", ())].append(item)
        config.hook.pytest_deselected(items=sorts[False])
        items[:] = sorts[True]


def pytest_collection_finish() -> None:
    """Collect garbage again, except among the collected tests: they all live until the end."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {name}: {value}")


@pytest.fixture(autouse=True)
def _plain_log() -> Iterator[None]:
    """Undo what a test changes in the logging."""
    root = logging.getLogger()
    level = root.level
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    root.handlers = [each for each in root.handlers if type(each).__module__ != "reconciler.logs"]
    root.setLevel(level)


@dataclass(frozen=True)
class External:
    """The server of TEST_DATABASE_URL, as far as it can stand in for one of our own."""

    url: str

    def dsn(self, database: str | None = None, user: str | None = None, password: str | None = None) -> str:
        """The address of a database on that server."""
        parts = urlsplit(self.url)
        login, _, host = parts.netloc.rpartition("@")
        if user:
            login = f"{quote(user, safe='')}:{quote(password or '', safe='')}"
        path = f"/{quote(database, safe='')}" if database else parts.path
        return parts._replace(netloc=f"{login}@{host}", path=path).geturl()

    def stop(self, *, immediate: bool = False) -> None:
        """Skip the test: a server that is not ours is not stopped."""
        pytest.skip("needs a server of its own, and TEST_DATABASE_URL names another")

    restart = stop


def _apart(work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine on a loop of its own, so that plain and async tests share the fixtures."""

    async def awaited() -> T:
        return await work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(awaited())).result()


class Databases:
    """The databases of one server, made and emptied over connections that stay open, in a thread with its own loop.

    A connection for each statement was most of what it cost the server to prepare a test.
    """

    def __init__(self, server: Postgres | External) -> None:
        self._server = server
        self._thread = ThreadPoolExecutor(1)
        self._loop = asyncio.new_event_loop()
        self._open: dict[str, asyncpg.Connection] = {}

    @contextmanager
    def new(self, template: str = "template0") -> Iterator[str]:
        """Make a copy of this database; yield its name, and drop it at the end."""
        name = f"kr_{secrets.token_hex(8)}"
        # Copied file by file: a third faster than through the log, which is never replayed here.
        strategy = " STRATEGY file_copy" if isinstance(self._server, Postgres) else ""
        self.execute(self._server.dsn(), f"CREATE DATABASE {name} TEMPLATE {template}{strategy}")
        try:
            yield name
        finally:
            self.execute(self._server.dsn(), f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, dsn: str, statement: str) -> None:
        """Execute this in the database at this address."""
        self._thread.submit(self._loop.run_until_complete, self._execute(dsn, statement)).result()

    async def _execute(self, dsn: str, statement: str) -> None:
        if dsn in self._open:
            # A test may have ended every connection to its database.
            with suppress(asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, OSError):
                await self._open[dsn].execute(statement)
                return
        self._open[dsn] = await asyncpg.connect(dsn)
        await self._open[dsn].execute(statement)

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._thread.submit(self._loop.run_until_complete, self._close()).result()
        self._thread.submit(self._loop.close).result()
        self._thread.shutdown()

    async def _close(self) -> None:
        for connection in self._open.values():
            connection.terminate()


@pytest.fixture(scope="session")
def pg_programs() -> Path | None:
    """The PostgreSQL programs that RECONCILER_TEST_PG chooses; None: whichever are found."""
    name = os.environ.get("RECONCILER_TEST_PG")
    if not name:
        return None
    found = {"debian": debian_binaries, "embedded": wheel_binaries}[name]()
    return found or pytest.fail(f"RECONCILER_TEST_PG={name}, but there are no such programs here")


@pytest.fixture(scope="session")
def postgres(pg_programs: Path | None) -> Iterator[Postgres | External]:
    """The worker's own server, or the one that TEST_DATABASE_URL names."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield External(url)
        return
    settings = {"max_connections": "200", "jit": "off"}
    with Postgres.start(bin_dir=pg_programs, settings=settings) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: Postgres | External) -> Iterator[Databases]:
    """Makes databases in the worker's server."""
    made = Databases(postgres)
    yield made
    made.close()


@pytest.fixture(scope="session")
def _template(postgres: Postgres | External, databases: Databases) -> Iterator[str]:
    """A database with everything applied: a copy of it is faster than a migration."""
    from reconciler.postgres.migrations.migrate import migrate  # noqa: PLC0415 - most tests need no database

    with databases.new() as name:
        _apart(lambda: migrate(postgres.dsn(name), application=True))
        yield name


@pytest.fixture
def empty_dsn(postgres: Postgres | External, databases: Databases) -> Iterator[str]:
    """The address of a fresh empty database."""
    with databases.new() as name:
        yield postgres.dsn(name)


@pytest.fixture
def dsn(postgres: Postgres | External, databases: Databases, _template: str) -> Iterator[str]:
    """The address of a fresh database with the application's table and our schema."""
    with databases.new(_template) as name:
        databases.execute(postgres.dsn(name), _WATCHED)
        yield postgres.dsn(name)


@pytest.fixture(scope="session")
def _worn(postgres: Postgres | External, databases: Databases, _template: str) -> Iterator[str]:
    """One database for every test that changes rows only."""
    with databases.new(_template) as name:
        yield postgres.dsn(name)


@pytest.fixture
def rows_dsn(_worn: str, databases: Databases) -> str:
    """Like `dsn` but emptied instead of made anew, which is faster; for tests that change rows and nothing else."""
    databases.execute(_worn, _EMPTY)
    databases.execute(_worn, _WATCHED)
    return _worn


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Any]:
    """A pool of connections to `dsn`."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=10) as connections:
        yield connections
