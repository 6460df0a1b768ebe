"""A connection pooler as hosted databases have it: Debian's pgbouncer on a socket of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import pytest

from testkit.waiting import until

_PORT = 6432
_SOCKET = f".s.PGSQL.{_PORT}"
"""Only a part of the socket's file name: no process listens on this port."""

LIMITS = ", ".join(
    ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    + [f"tcp_keepalives_{what}" for what in ("idle", "interval", "count")]
)


@asynccontextmanager
async def pooler(
    dsn: str, *, mode: str, ignored: str = LIMITS, database: str = "*", limits: str = ""
) -> AsyncIterator[str]:
    """The address of the same database through a pooler in this mode, which lets `ignored` parameters pass.

    It serves the databases of this name, and has these further lines of pgbouncer.ini as `limits`.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("needs pgbouncer, which is not installed")
    # Short, since a socket's path may have 107 letters, and open to the user that pgbouncer becomes.
    with tempfile.TemporaryDirectory(prefix="kr-pool-") as name:
        folder = Path(name)
        _configure(folder, urlsplit(dsn), mode, ignored, database, limits)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        process = await asyncio.create_subprocess_exec(
            program, "-q", *user, str(folder / "pgbouncer.ini"), stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await until(lambda: any(one.name == _SOCKET for one in folder.iterdir()), what="the pooler's socket")
            yield f"postgresql://somebody:word@{urlsplit(dsn).path}?host={folder}&port={_PORT}"
        finally:
            process.terminate()
            await process.wait()


def _configure(folder: Path, server: SplitResult, mode: str, ignored: str, database: str, limits: str) -> None:
    login = f"user={unquote(server.username or '')} password={unquote(server.password or '')}"
    config, users = folder / "pgbouncer.ini", folder / "users.txt"
    users.write_text('"somebody" "word"\n')
    config.write_text(f"""
[databases]
{database} = host={server.hostname} port={server.port} {login}
[pgbouncer]
listen_addr =
listen_port = {_PORT}
unix_socket_dir = {folder}
auth_type = any
auth_file = {users}
pool_mode = {mode}
ignore_startup_parameters = {ignored}
{limits}
""")
    for file in (config, users):
        file.chmod(0o644)
    folder.chmod(0o777)
