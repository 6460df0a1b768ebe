"""The command `run`: the daemon."""

import asyncio
import os
import signal
from typing import Annotated

import typer

from reconciler.cli.options import settings_for


def run(
    observe: Annotated[
        bool, typer.Option("--observe", help="Ask, count and alert, but store and write nothing.")
    ] = False,
) -> None:
    """Run the daemon, until SIGTERM or Ctrl-C."""
    # In a container a signal that the first process does not catch does nothing, and the imports take a second.
    signal.signal(signal.SIGTERM, _exit)

    from reconciler import daemon
    from reconciler.malloc import economize
    from reconciler.systemd.notify import SupervisorSocket

    economize()
    supervisor = SupervisorSocket.from_environment(os.environ)
    raise typer.Exit(asyncio.run(daemon.run(settings_for(), observe=observe, supervisor=supervisor)))


def _exit(*_: object) -> None:
    """Exit: nothing was begun yet."""
    raise SystemExit(0)
