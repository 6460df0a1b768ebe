"""What PostgreSQL and the poolers before it say is kept, with the place and the SQLSTATE, and each has its advice."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from reconciler.demo.embedded_postgres import Postgres, free_port
from reconciler.errors import Config, ReconcilerError, Transient
from reconciler.postgres.errors import translated
from reconciler.postgres.pool import Database
from reconciler.postgres.refusals import AWAY, CODE, REFUSALS, Peer
from testkit.standins.pooler import pooler
from testkit.standins.refusing_server import fatal, refusing

PASSWORD = "the-password"

SAID = [
    # Supavisor, as it spoke until 2025 and as it speaks since.
    ("XX000", "Tenant or user not found", "the pooler does not know this project", "postgres.PROJECT-REF", True),
    ("XX000", "(ENOTFOUND) tenant/user postgres.abcdefghijkl not found", "does not know this project", "region", True),
    ("XX000", "(ENOIDENTIFIER) no tenant identifier provided (external_id or sni_hostname required)",
     "cannot tell which project", "PROJECT-REF", True),
    ("XX000", "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size",
     "the pooler has no free place", "pool size", False),
    ("XX000", "(EMAXCONNSESSION) max clients reached in session mode - max clients are limited to pool_size: 15",
     "the pooler has no free place", "pool size", False),
    ("XX000", "Max client connections reached", "the pooler has no free place", "pool size", False),
    ("XX000", "(ECIRCUITBREAKER) Too many authentication errors", "circuit breaker is open", "ten minutes", False),
    ("XX000", "(ECIRCUITBREAKER) Unable to establish connection to upstream database", "circuit breaker is open",
     "the database itself", False),
    ("XX000", "Unable to check out process from the pool due to timeout", "no connection to the database in time",
     "long statements", False),
    ("XX000", "SSL connection is required", "only encrypted connections", "sslmode=require", True),
    ("XX000", "(ESSLREQUIRED) SSL connection is required for user: postgres", "only encrypted connections",
     "sslmode=require", True),
    ("XX000", "Address not in tenant allow_list: {203, 0, 113, 7}", "does not let this machine in",
     "network restrictions", True),
    ("28P01", 'password authentication failed for user "postgres"', "rejects user or password", "user and password",
     True),
    # PgBouncer.
    ("08P01", '"trust" authentication failed', "rejects user or password", "user and password", True),
    ("08P01", "no more connections allowed (max_client_conn)", "the pooler has no free place", "max_client_conn",
     False),
    ("08P01", "query_wait_timeout", "no connection to the database in time", "pool_size", False),
    ("08P01", "server login failed: FATAL password authentication failed for user", "the pooler cannot log in",
     "pooler's own", False),
    ("3D000", "no such database: shop", "there is no such database", "database name", True),
    # PostgreSQL.
    ("28000", 'no pg_hba.conf entry for host "203.0.113.7", user "postgres", database "postgres", SSL encryption',
     "does not let this machine, user and database in", "pg_hba.conf", True),
    ("28000", 'no pg_hba.conf entry for host "203.0.113.7", user "postgres", database "postgres", no encryption',
     "only encrypted connections", "sslmode=require", True),
    ("28000", 'role "postgres" is not permitted to log in', "does not let this user in", "user and password", True),
    ("3D000", 'database "shop" does not exist', "there is no such database", "database name", True),
    ("53300", "sorry, too many clients already", "too many connections", "max_connections", False),
    ("53300", "remaining connection slots are reserved for roles with the SUPERUSER attribute",
     "last connections for superusers", "max_connections", False),
    ("53300", 'too many connections for role "postgres"', "connections of this user or database", "CONNECTION LIMIT",
     False),
    ("53100", "could not write init file: No space left on device", "the disk of the database is full", "space", False),
    ("57P03", "the database system is starting up", f"{AWAY}, it is starting", "wait", False),
    ("57P03", "the database system is in recovery mode", f"{AWAY}, it is starting", "wait", False),
    ("57P03", "the database system is shutting down", f"{AWAY}, it is stopping", "wait", False),
    ("XX000", "something that nobody has seen", AWAY, "host and port", False),
]  # fmt: skip
"""SQLSTATE, message, a part of our sentence and of the advice, and whether `run` ends."""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, size=1)
    try:
        yield database
    finally:
        await database.close()


async def refused(dsn: str) -> ReconcilerError:
    """The error of the first statement at this address."""
    async with connected(dsn) as database:
        with pytest.raises(ReconcilerError) as caught:
            await database.value("SELECT 1")
        assert database.trouble == str(caught.value)
        return caught.value


def place(dsn: str) -> str:
    return dsn.rpartition("@")[2].partition("/")[0]


@pytest.mark.parametrize(("sqlstate", "message", "says", "do", "stops"), SAID)
async def test_each_refusal_keeps_its_words_and_has_its_own_advice(
    sqlstate: str, message: str, says: str, do: str, stops: bool
) -> None:
    async with refusing(fatal(sqlstate, message)) as dsn:
        error = await refused(f"{dsn}?sslmode=disable")
    assert isinstance(error, Config if stops else Transient)
    assert says in str(error).partition(" says: ")[0]
    assert str(error).endswith(f": {place(dsn)} says: {message} (FATAL {sqlstate})")
    assert do in error.hint
    assert stops or error.code == CODE


def test_every_line_of_the_table_is_played_or_produced_here() -> None:
    played = {
        next(one for one in REFUSALS if one.fits(asyncpg.PostgresError.new(dict(fatal(state, message)))))
        for state, message, *_ in SAID
    }
    produced = {
        "DATABASE_URL cannot be used",
        "the database takes no writes",
        "a statement took too long",
        "the database is closed to connections",
        "the server offers no encryption",
    }
    assert {one.says for one in REFUSALS} - {one.says for one in played} == produced


def test_the_last_line_of_the_table_fits_everything() -> None:
    assert REFUSALS[-1].fits(ValueError("anything"))


async def test_the_password_is_removed_where_the_other_side_repeats_it() -> None:
    told = f"cannot use postgresql://postgres:{PASSWORD}@db/postgres and {PASSWORD}\nsecond line " + "x" * 1000
    async with refusing(fatal("XX000", told)) as dsn:
        error = await refused(dsn)
    assert PASSWORD not in f"{error} {error.hint} {error!r}"
    assert "second line" in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 450


async def test_the_words_of_the_encrypted_attempt_count_where_the_plain_one_is_refused_for_being_plain(
    tmp_path: Path,
) -> None:
    full = fatal("XX000", "MaxClientsInSessionMode: max clients reached")
    plain = fatal("XX000", "SSL connection is required")
    async with refusing(plain, encrypted=full, tls=_certificate(tmp_path)) as dsn:
        preferred = await refused(dsn)
        without = await refused(f"{dsn}?sslmode=disable")
    assert isinstance(preferred, Transient)
    assert "no free place" in str(preferred)
    assert isinstance(without, Config)


def _certificate(folder: Path) -> ssl.SSLContext:
    from tests.net.test_http_clients_tls import certificate  # noqa: PLC0415 - only this test encrypts

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate(folder))
    return context


async def test_a_port_where_nobody_listens_is_said_to_refuse() -> None:
    port = free_port()
    error = await refused(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres")
    assert str(error) == f"{AWAY}: 127.0.0.1:{port} refuses the connection"
    assert (type(error), error.code) == (Transient, CODE)


async def test_several_addresses_that_all_refuse_are_one_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()

    def both(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    error = await refused(f"postgresql://postgres:{PASSWORD}@db.example:{port}/postgres")
    assert str(error) == f"{AWAY}: db.example:{port} refuses the connection"


async def test_a_name_that_is_not_resolved_is_said_with_the_resolvers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await refused(f"postgresql://postgres:{PASSWORD}@db.example/postgres")
    assert str(error) == (
        f"{AWAY}: db.example:5432 cannot be found, its name is not resolved: Name or service not known"
    )
    assert isinstance(error, Transient)


async def test_a_server_that_says_nothing_is_said_to_be_silent() -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        dsn = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"
        with pytest.raises(Transient) as silent:
            await translated(lambda: asyncpg.connect(dsn, timeout=0.1), Peer.of(dsn))
    assert str(silent.value) == f"{AWAY}: 127.0.0.1:{port} did not answer in time"


@pytest.mark.parametrize(
    ("dsn", "name"),
    [
        ("postgresql://u:p@db.example/shop", "db.example:5432"),
        ("postgresql://u:p@db.example:6543/shop?sslmode=require", "db.example:6543"),
        ("postgresql://u:p%40@a.example:1,b.example:2/shop", "a.example:1,b.example:2"),
        ("postgresql://u@[::1]/shop", "[::1]:5432"),
        ("postgresql://u@/shop?host=/run/postgresql&port=5433", "/run/postgresql:5433"),
    ],
)
def test_the_place_is_named_by_host_and_port_without_the_login(dsn: str, name: str) -> None:
    assert Peer.of(dsn).name == name


# What the real servers say.


@pytest.fixture(scope="module")
def guarded(pg_programs: Path | None) -> Iterator[Postgres]:
    """A server with four connections, three of them for superusers, whose pg_hba.conf a test may write."""
    settings = {"max_connections": "4", "superuser_reserved_connections": "3", "max_wal_senders": "0"}
    with Postgres.start(bin_dir=pg_programs, settings=settings) as server:
        yield server


async def _run(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@asynccontextmanager
async def _rules(server: Postgres, first: str) -> AsyncIterator[None]:
    """Let pg_hba.conf have only this line and one for the superuser."""
    path = server.folder / "data" / "pg_hba.conf"
    before = path.read_text()
    connection = await asyncpg.connect(server.dsn())
    try:
        path.write_text(f"{first}\nhost all postgres 127.0.0.1/32 scram-sha-256\n")
        await connection.execute("SELECT pg_reload_conf()")
        yield
    finally:
        path.write_text(before)
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()


async def _until_refused_for(dsn: str, words: str) -> ReconcilerError:
    """The error, as soon as it has these words: the server reads its rules again a moment after it was told."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(AssertionError, pytest.fail.Exception):
                error = await refused(dsn)
                if words in str(error):
                    return error


async def test_postgresqls_own_refusals_are_recognised(guarded: Postgres) -> None:
    await _run(
        guarded.dsn(),
        f"CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}'",
        f"CREATE ROLE barred NOLOGIN PASSWORD '{PASSWORD}'",
        f"CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 0",
        "CREATE DATABASE closed",
        "ALTER DATABASE closed ALLOW_CONNECTIONS false",
    )
    cases = {
        guarded.dsn(user="shop", password="another"): (Config, "rejects user or password", "28P01"),
        guarded.dsn("nowhere", "shop", PASSWORD): (Config, "no such database", "3D000"),
        guarded.dsn(user="barred", password=PASSWORD): (Config, "does not let this user in", "28000"),
        guarded.dsn(user="limited", password=PASSWORD): (Transient, "connections of this user", "53300"),
        guarded.dsn("closed", "shop", PASSWORD): (Transient, "closed to connections", "55000"),
        f"{guarded.dsn(user='shop', password=PASSWORD)}?sslmode=require": (Transient, "no encryption", "rejected SSL"),
    }
    for dsn, (kind, says, code) in cases.items():
        error = await refused(dsn)
        assert isinstance(error, kind), error
        assert says in str(error)
        assert code in str(error)
        assert place(dsn).partition("?")[0] in str(error)
        assert error.hint
        assert PASSWORD not in f"{error} {error.hint}"


async def test_postgresqls_last_connections_are_for_superusers(guarded: Postgres) -> None:
    await _run(guarded.dsn(), f"CREATE ROLE crowd LOGIN PASSWORD '{PASSWORD}'")
    dsn = guarded.dsn(user="crowd", password=PASSWORD)
    first = await asyncpg.connect(dsn)
    error = await refused(dsn)
    await first.close()
    assert isinstance(error, Transient)
    assert "last connections for superusers" in str(error)
    assert "remaining connection slots" in str(error)


async def test_pg_hba_without_a_line_for_us_is_recognised(guarded: Postgres) -> None:
    dsn = guarded.dsn(user="stranger", password=PASSWORD)
    async with _rules(guarded, "host none none 127.0.0.1/32 scram-sha-256"):
        error = await _until_refused_for(dsn, "no pg_hba.conf entry")
    assert isinstance(error, Config)
    assert "(FATAL 28000)" in str(error)


async def test_pg_hba_that_rejects_us_is_recognised(guarded: Postgres) -> None:
    dsn = guarded.dsn(user="stranger", password=PASSWORD)
    async with _rules(guarded, "host all stranger 127.0.0.1/32 reject"):
        error = await _until_refused_for(dsn, "pg_hba.conf rejects connection")
    assert isinstance(error, Config)
    assert "does not let this machine, user and database in" in str(error)


async def test_a_statement_that_is_ended_for_its_length_keeps_the_servers_words(rows_dsn: str) -> None:
    async with connected(rows_dsn) as database:
        with pytest.raises(Transient) as ended:
            await database.execute("SET statement_timeout = '20ms'; SELECT pg_sleep(5)")
    assert str(ended.value).startswith("a statement took too long: ")
    assert "canceling statement due to statement timeout (ERROR 57014)" in str(ended.value)


async def test_a_session_that_takes_no_writes_is_told_apart_from_one_that_is_away(rows_dsn: str) -> None:
    async with connected(rows_dsn) as database:
        with pytest.raises(Transient) as refusal:
            await database.execute("SET TRANSACTION READ ONLY; DELETE FROM reconciler.pace")
        assert str(refusal.value).startswith("the database takes no writes: ")
        assert "primary" in refusal.value.hint


async def test_pgbouncer_without_a_free_place_is_recognised(rows_dsn: str) -> None:
    async with pooler(rows_dsn, mode="session", limits="max_client_conn = 1") as dsn:
        first = await asyncpg.connect(dsn)
        error = await refused(dsn)
        await first.close()
    assert isinstance(error, Transient)
    assert "the pooler has no free place" in str(error)
    assert "no more connections allowed (max_client_conn)" in str(error)


async def test_pgbouncer_that_does_not_know_the_database_is_recognised(rows_dsn: str) -> None:
    async with pooler(rows_dsn, mode="session", database="another", limits="auth_type = plain") as dsn:
        error = await refused(dsn)
    assert isinstance(error, Config)
    assert "there is no such database" in str(error)


async def test_pgbouncer_that_rejects_the_password_is_recognised(rows_dsn: str) -> None:
    async with pooler(rows_dsn, mode="session", limits="auth_type = plain") as dsn:
        error = await refused(dsn.replace(":word@", f":{PASSWORD}@"))
    assert isinstance(error, Config)
    assert "rejects user or password" in str(error)


async def test_pgbouncer_whose_server_has_no_connection_left_is_recognised(rows_dsn: str) -> None:
    limits = "default_pool_size = 1\nquery_wait_timeout = 1"
    async with pooler(rows_dsn, mode="session", limits=limits) as dsn:
        first = await asyncpg.connect(dsn)
        # In session mode the pooler gives a connection of the server with the first statement.
        assert await first.fetchval("SELECT 1") == 1
        error = await refused(dsn)
        await first.close()
    assert isinstance(error, Transient)
    assert "the pooler got no connection to the database in time" in str(error)


@pytest.mark.parametrize("field", ["C", "M"])
async def test_an_answer_without_one_of_its_fields_is_waited_for(field: str) -> None:
    fields: Mapping[str, str] = {name: text for name, text in fatal("XX000", "odd").items() if name != field}
    async with refusing(fields) as dsn:
        error = await refused(dsn)
    assert isinstance(error, Transient)
    assert re.match(rf"{AWAY}: 127\.0\.0\.1:\d+ says: ", str(error))
