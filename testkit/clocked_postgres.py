"""A PostgreSQL that reads a clock of its own, which a test can set while it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from reconciler.demo import embedded_postgres
from reconciler.demo.embedded_postgres import Postgres
from testkit.standins.clock import Clock


@contextmanager
def clocked_postgres(bin_dir: Path | None = None) -> Iterator[tuple[Postgres, Clock]]:
    """Run the server, and give it with its clock."""
    with tempfile.TemporaryDirectory(prefix="clock-") as name:
        folder = Path(name)
        # The server's account has to read the clock.
        folder.chmod(0o755)
        with Clock(folder) as clock:
            account = embedded_postgres.choose_account()
            words = (f"{key}={value}" for key, value in clock.environment.items())
            preloaded = replace(account, prefix=(*account.prefix, "env", *words))
            with mock.patch.object(embedded_postgres, "choose_account", return_value=preloaded):
                server = Postgres.start(bin_dir=bin_dir)
            with server:
                yield server, clock
