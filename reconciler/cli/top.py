"""The command `top`: what happens now, refreshed until Ctrl-C."""

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
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two refreshes.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Show once what the replicas last reported, up to a third of a lease ago.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch transfers and requests, until Ctrl-C.

    Transfers with bytes and rate, requests to KIE and their rate limit, generations that wait for a turn. Without a
    terminal each refresh is one page, with --json one line. While it runs, every replica reports each second.
    """
    settings = settings_for("database_url")
    # Ctrl-C is the only end.
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(settings, interval=interval, once=once, as_json=as_json))


async def _watch(settings: Settings, *, interval: float, once: bool, as_json: bool) -> None:
    from reconciler.bootstrap import activity_reader
    from reconciler.cli.render.top import TopScreen
    from reconciler.errors import Transient
    from reconciler.operations.throughput import ThroughputMeter

    meter = ThroughputMeter()
    async with activity_reader(settings) as reader:
        with TopScreen(as_json=as_json, once=once) as screen:
            while True:
                try:
                    screen.show(meter.at(await _read(reader, once=once)))
                except Transient as error:
                    if once:
                        raise
                    screen.excuse(str(error))
                if once:
                    return
                await asyncio.sleep(interval)


async def _read(reader: ActivityReader, *, once: bool) -> ActivitySnapshot:
    if not once:
        await reader.watch()
    return await reader.look()
