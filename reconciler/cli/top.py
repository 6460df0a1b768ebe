"""The command that watches: what moves right now, again and again."""

# ruff: noqa: PLC0415 - see shared.py

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.options import AsJson, settings_for

if TYPE_CHECKING:
    from reconciler.postgres.reports.activity import ActivityReader, ActivitySnapshot
    from reconciler.settings import Settings


def top(
    *,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="One look at what was told last, up to a third of a lease ago.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch what moves, until Ctrl-C.

    Transfers with bytes and rate, requests to KIE, their budget, who waits for a turn. Each look is one page where
    there is no terminal, and one line with --json. While it runs every replica tells each second what it is doing.
    """
    settings = settings_for("database_url")
    # It has no other end.
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(settings, interval=interval, once=once, as_json=as_json))


async def _watch(settings: Settings, *, interval: float, once: bool, as_json: bool) -> None:
    from reconciler.bootstrap import activity_reader
    from reconciler.cli.render.top import TopScreen
    from reconciler.errors import Transient
    from reconciler.operations.throughput import ThroughputMeter

    motions = ThroughputMeter()
    async with activity_reader(settings) as eyes:
        with TopScreen(as_json=as_json, once=once) as screen:
            while True:
                try:
                    screen.show(motions.at(await _seen(eyes, once=once)))
                except Transient as error:
                    if once:
                        raise
                    screen.excuse(str(error))
                if once:
                    return
                await asyncio.sleep(interval)


async def _seen(eyes: ActivityReader, *, once: bool) -> ActivitySnapshot:
    if not once:
        await eyes.watch()
    return await eyes.look()
