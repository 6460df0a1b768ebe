"""The command `demo`: everything on this machine."""

# ruff: noqa: PLC0415 - see options.py

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    *,
    generations: Annotated[int, typer.Option(min=1, help="How many to order.")] = 24,
    serve: Annotated[bool, typer.Option("--serve", help="Stay up afterwards, until Ctrl-C.")] = False,
    faults: Annotated[bool, typer.Option("--faults", help="A third of everything fails on the way.")] = False,
) -> None:
    """Play the whole job on this machine.

    Every stored byte is compared with its source; exit 0 only if all arrived.
    """
    from reconciler.demo import main

    raise typer.Exit(main(generations=generations, serve=serve, faults=faults))
