"""What several commands read and say in the same way."""

# Most of the time of a `--help` would be imports, so every command imports inside itself what it alone needs.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from reconciler.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def settings_for(*required: str) -> Settings:
    """Read the settings, begin to log as they say, and insist on those `required`."""
    from reconciler import logs, settings

    loaded = settings.load()
    logs.setup(level=loaded.log_level, form=loaded.log_format, secrets=loaded.secrets())
    loaded.require(*required)
    return loaded


def fail(told: str) -> NoReturn:
    """Say what was not found, and end with 1."""
    typer.echo(f"kie-reconciler: {told}", err=True)
    raise typer.Exit(1)
