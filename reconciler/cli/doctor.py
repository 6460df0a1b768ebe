"""The command `doctor`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from reconciler.cli.options import AsJson, emit, settings_for

if TYPE_CHECKING:
    from reconciler.operations.doctor import Check


def doctor(*, as_json: AsJson = False) -> None:
    """Check everything that the daemon needs.

    One line each: ok, warn or FAIL, and what to do. Exit 1 with any FAIL. Nothing is changed; the object that storage
    is tried with is removed again.
    """
    from reconciler import bootstrap, settings
    from reconciler.cli.render.doctor import show
    from reconciler.operations.doctor import failed

    loaded = settings_for("database_url", "kie_api_key", "storage")

    async def examine() -> tuple[Check, ...]:
        async with bootstrap.doctor(loaded) as built:
            return await built.examine(settings.strangers())

    checks = asyncio.run(examine())
    emit(checks, show, as_json=as_json)
    raise typer.Exit(1 if failed(checks) else 0)
