"""An embedded PostgreSQL for the demo and the tests: a private server that ends with the process that started it.

It creates its folder, starts, waits until it answers, and stops. It creates no tables. The daemon never uses it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Self
from urllib.parse import quote

from reconciler.demo.postgres_programs import choose_account, find_binaries
from reconciler.errors import Config

START_SECONDS = 60.0
STOP_SECONDS = 10.0
PORT_ATTEMPTS = 5

_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

# Data survives a crash of the server, but not of the machine; synchronous_commit=off would survive neither.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}

_INITDB = ("-U", "postgres", "-A", "password", "-E", "UTF8", "--locale=C", "--no-sync")

# Its standard input ends when the starting process ends in any way. The second argument is a folder to remove
# afterwards, empty if the folder is the caller's.
_GUARD = """
read -r _
kill -INT "$1" 2>/dev/null
[ -n "$2" ] || exit 0
n=0
while [ $n -lt 100 ] && kill -0 "$1" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
rm -rf "$2"
"""


def free_port() -> int:
    """Return a port of 127.0.0.1 that no process uses at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """One server on 127.0.0.1; a context manager that stops it and removes the folder it created."""

    def __init__(self, folder: Path, *, bin_dir: Path, owns_folder: bool, settings: Mapping[str, str]) -> None:
        self.bin_dir = bin_dir
        self.folder = folder
        self.port = 0
        self._owns_folder = owns_folder
        self._settings = dict(settings)
        self._account = choose_account()
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        folder: Path | None = None,
        *,
        fsync: bool = False,
        settings: Mapping[str, str] = _NO_SETTINGS,
        bin_dir: Path | None = None,
    ) -> Postgres:
        """Start a server and wait until it answers.

        A `folder` is created if missing, reused if it holds data, and kept; without one a temporary folder is used.
        Raises Config if the programs are missing or do not start.
        """
        bin_dir = bin_dir or find_binaries(os.environ)
        owns_folder = folder is None
        where = folder.resolve() if folder else Path(tempfile.mkdtemp(prefix="kie-reconciler-pg-"))
        durability = {} if fsync else _NOT_DURABLE
        server = cls(where, bin_dir=bin_dir, owns_folder=owns_folder, settings={**durability, **settings})
        with ExitStack() as undo:
            undo.callback(server.close)
            server._initialise()
            server._launch_on_a_free_port()
            undo.pop_all()
        return server

    @property
    def pid(self) -> int:
        """The id of the server's process; raises Config if it is stopped."""
        if self._server is None:
            raise Config("This embedded PostgreSQL is stopped", code="embedded_postgres")
        return self._server.pid

    @property
    def password(self) -> str:
        """The password of `postgres`: other users of this machine can reach the port too."""
        return (self.folder / "password").read_text()

    def dsn(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """Return the address of a database; `password` defaults to that of `postgres`."""
        secret = self.password if password is None else password
        login = f"{quote(user, safe='')}:{quote(secret, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server and keep its data; `immediate` is a crash, from which a restart recovers."""
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.communicate()

    def restart(self) -> None:
        """Start again with the same folder and port; stop first if it runs."""
        self.stop()
        self._launch()

    def close(self) -> None:
        """Stop, and remove the folder if `start` created it."""
        self.stop()
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _cluster(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "postgres.log"

    def _initialise(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (self._cluster / "PG_VERSION").exists():
            return
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(24))
        for path in (self.folder, secret):
            self._account.own(path)
        program = str(self.bin_dir / "initdb")
        command = [program, "-D", str(self._cluster), *_INITDB, f"--pwfile={secret}"]
        if self._account.spawn(command, log=self._log).wait() != 0:
            raise Config(f"initdb failed: {self._end_of_log()}", code="embedded_postgres")

    def _launch_on_a_free_port(self) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self.port = free_port()
            try:
                self._launch()
            except Config as error:
                # Another process may take the port before the server does.
                if attempt == PORT_ATTEMPTS or "in use" not in str(error):
                    raise
            else:
                return

    def _launch(self) -> None:
        program = str(self.bin_dir / "postgres")
        command = [program, "-D", str(self._cluster), *self._options()]
        self._server = self._account.spawn(command, log=self._log)
        to_remove = str(self.folder) if self._owns_folder else ""
        self._guard = subprocess.Popen(  # noqa: S603 - a fixed script, its values are arguments
            ["/bin/sh", "-c", _GUARD, "guard", str(self._server.pid), to_remove],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._wait_until_ready(self._server)

    def _options(self) -> Iterator[str]:
        fixed = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        }
        for name, value in {**self._settings, **fixed}.items():
            yield from ("-c", f"{name}={value}")

    def _wait_until_ready(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(server.pid):
            if server.poll() is not None or time.monotonic() > deadline:
                words = self._end_of_log()
                self.stop()
                raise Config(f"PostgreSQL did not start: {words}", code="embedded_postgres")
            time.sleep(0.005)

    def _ready(self, pid: int) -> bool:
        # Line 1 of postmaster.pid is the process id, line 8 its padded state.
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _end_of_log(self) -> str:
        log = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return " / ".join(line.strip() for line in log[-4:]) or "its log is empty"
