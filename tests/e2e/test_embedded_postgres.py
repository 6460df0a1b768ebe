"""The embedded PostgreSQL runs as the user that starts it, keeps its data, and ends with its parent process."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from reconciler.demo import postgres_programs
from reconciler.demo.embedded_postgres import Postgres
from reconciler.errors import Config
from testkit.waiting import until


async def ask(dsn: str, statement: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def own(pg_programs: Path | None) -> Iterator[Postgres]:
    """A server that these tests may stop; never the one that the other tests share."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KIE_API_KEY", "a-secret-of-ours")
        server = Postgres.start(bin_dir=pg_programs)
    with server:
        yield server


async def test_it_answers_and_runs_as_the_current_user(own: Postgres) -> None:
    assert await ask(own.dsn(), "SELECT 20 + 1") == 21
    assert psutil.Process(own.pid).uids().effective == os.geteuid()


async def test_it_listens_on_loopback_alone_and_has_no_socket_file(own: Postgres) -> None:
    addresses = {c.laddr.ip for c in psutil.Process(own.pid).net_connections() if not c.raddr}
    assert addresses == {"127.0.0.1"}
    assert await ask(own.dsn(), "SHOW unix_socket_directories") == ""


async def test_it_asks_for_a_password(own: Postgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(own.dsn(password="wrong"), "SELECT 1")


def test_it_does_not_inherit_our_secrets(own: Postgres) -> None:
    assert "KIE_API_KEY" not in psutil.Process(own.pid).environ()


@pytest.mark.soak
async def test_data_and_address_outlive_a_restart(own: Postgres) -> None:
    before = own.dsn()
    await ask(before, "CREATE TABLE kept AS SELECT 7 AS n")
    own.restart()
    assert own.dsn() == before
    assert await ask(before, "SELECT n FROM kept") == 7


@pytest.mark.soak
async def test_committed_data_outlives_a_crash(own: Postgres) -> None:
    await ask(own.dsn(), "CREATE TABLE committed AS SELECT 8 AS n")
    pid = own.pid
    own.stop(immediate=True)
    assert not psutil.pid_exists(pid)
    with pytest.raises(OSError, match="Connect call failed"):
        await ask(own.dsn(), "SELECT 1")
    own.restart()
    assert await ask(own.dsn(), "SELECT n FROM committed") == 8


@pytest.mark.soak
async def test_a_given_folder_is_kept_and_taken_up_again(tmp_path: Path, pg_programs: Path | None) -> None:
    folder = tmp_path / "server"
    with Postgres.start(folder, bin_dir=pg_programs, fsync=True) as first:
        assert await ask(first.dsn(), "SHOW fsync") == "on"
        await ask(first.dsn(), "CREATE TABLE kept AS SELECT 9 AS n")
    with Postgres.start(folder, bin_dir=pg_programs) as second:
        assert await ask(second.dsn(), "SELECT n FROM kept") == 9
    assert (folder / "data").is_dir()


def test_the_servers_reason_for_not_starting_is_shown(pg_programs: Path | None) -> None:
    with pytest.raises(Config, match="no_such_setting"):
        Postgres.start(bin_dir=pg_programs, settings={"no_such_setting": "1"})


PARENT = """
import sys
from pathlib import Path
from reconciler.demo.embedded_postgres import Postgres
server = Postgres.start(bin_dir=Path(sys.argv[1]) if sys.argv[1] else None)
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.soak
async def test_it_is_gone_with_its_folder_when_its_parent_is_killed(
    pg_programs: Path | None,
) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(pg_programs or "")), stdin=PIPE, stdout=PIPE
    )
    assert parent.stdout is not None
    pid, folder = (await parent.stdout.readline()).decode().split()
    assert psutil.pid_exists(int(pid))
    parent.kill()
    await parent.wait()

    def gone() -> bool:
        alive = psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != "zombie"
        return not alive and not Path(folder).exists()

    await until(gone, what="the orphaned server and its folder gone")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has an account to drop to")
@pytest.mark.soak
async def test_where_namespaces_are_forbidden_root_drops_to_another_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forbidden = tmp_path / "unshare"
    forbidden.write_text("#!/bin/sh\nexit 1\n")
    forbidden.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    account = postgres_programs.choose_account()
    assert account.drop_to is not None
    reachable = postgres_programs.debian_binaries()
    if reachable is None:
        pytest.skip("an unprivileged account may not reach the programs in this environment")
    with Postgres.start(bin_dir=reachable) as server:
        assert psutil.Process(server.pid).uids().effective == account.drop_to.pw_uid != 0
        assert await ask(server.dsn(), "SELECT 1") == 1
    assert not server.folder.exists()


def test_programs_named_by_the_environment_come_first(tmp_path: Path) -> None:
    (tmp_path / "postgres").touch()
    assert postgres_programs.find_binaries({"RECONCILER_PG_BIN": str(tmp_path)}) == tmp_path


def test_a_wrong_folder_of_the_programs_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Config, match="RECONCILER_PG_BIN"):
        postgres_programs.find_binaries({"RECONCILER_PG_BIN": str(tmp_path)})


def test_without_the_wheel_the_programs_of_the_path_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(postgres_programs, "wheel_binaries", lambda: None)
    monkeypatch.setattr(postgres_programs, "debian_binaries", lambda: None)
    with pytest.raises(Config, match=r"kie-reconciler\[demo\]"):
        postgres_programs.find_binaries({"PATH": str(tmp_path)})
    shutil.copy("/bin/true", tmp_path / "postgres")
    assert postgres_programs.find_binaries({"PATH": str(tmp_path)}) == tmp_path
