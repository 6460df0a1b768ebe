"""What moves, on a screen: a view that changes in place on a terminal, one page after the other elsewhere.

The figures are made in `moving.py`. Ids and reasons are hostile input here as in `tables.py`: text, never markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Self

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar

from reconciler.cli.render.tables import as_plain, console, grid, text
from reconciler.domain.findings import format_seconds
from reconciler.operations.throughput import ReplicaRates, Throughput, TransferView


class TopScreen:
    """Where motions are shown; on a terminal each takes the place of the one before, unless `once`."""

    def __init__(self, *, as_json: bool, once: bool) -> None:
        self._as_json = as_json
        self._console = console()
        moves = self._console.is_terminal and not as_json and not once
        self._live = Live(console=self._console, screen=True, auto_refresh=False) if moves else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, motion: Throughput) -> None:
        """Show what moves: as a page, or as one line of JSON."""
        if self._as_json:
            sys.stdout.write(json.dumps(asdict(motion), default=as_plain) + "\n")
            sys.stdout.flush()
        else:
            self._show(page(motion))

    def excuse(self, reason: str) -> None:
        """Say why there is nothing new; the JSON goes on with the next line."""
        if self._live is not None:
            self._show(text(f"{reason}; trying again"))
        else:
            sys.stderr.write(f"kie-reconciler: {reason}; trying again\n")

    def _show(self, shown: RenderableType) -> None:
        if self._live is None:
            self._console.print(shown)
        else:
            self._live.update(shown, refresh=True)


def page(motion: Throughput) -> RenderableType:
    """Return the whole view."""
    parts: list[RenderableType] = [text(_headline(motion)), "", _replicas(motion)]
    if motion.transfers:
        parts += ["", _transfers(motion.transfers)]
    if motion.waiting:
        parts += ["", _waiting(motion)]
    return Group(*parts)


def _headline(motion: Throughput) -> str:
    moving = f"{len(motion.transfers)} transfers" if len(motion.transfers) != 1 else "1 transfer"
    booked = ", ".join(
        f"key {key.key_hash[:8]} {f'booked for {key.booked:.1f} s' if key.booked else 'free'}" for key in motion.keys
    )
    polls = _sum(rates.polls_per_second for rates in motion.replicas)
    budget = f"polls {polls}/s, {booked or 'no key used yet'}"
    return f"{motion.at:%H:%M:%S %Z}  {moving}, {motion.overdue} waiting for a turn; {budget}"


def _replicas(motion: Throughput) -> RenderableType:
    if not motion.replicas:
        return text("no replica is alive: start `kie-reconciler run`")
    names = ("replica", "", "told", "in hand", "polls/s", "delivered/s", "in", "out")
    return grid(names, ([*_where(one), _told(motion, one), one.held, *_rates(one)] for one in motion.replicas))


def _where(rates: ReplicaRates) -> tuple[str, str]:
    return f"{rates.host} pid {rates.pid}", "leads" if rates.leads else ""


def _told(motion: Throughput, rates: ReplicaRates) -> str:
    return f"{format_seconds(max((motion.at - rates.told_at).total_seconds(), 0))} ago"


def _rates(rates: ReplicaRates) -> tuple[str, ...]:
    return (
        _count(rates.polls_per_second),
        _count(rates.deliveries_per_second),
        _bytes(rates.downloaded_per_second),
        _bytes(rates.uploaded_per_second),
    )


def _transfers(transfers: Sequence[TransferView]) -> RenderableType:
    names = ("generation", "n", "stage", "bytes", "of", "rate", "for", "")
    return grid(names, (_transfer(one) for one in transfers))


def _transfer(one: TransferView) -> Sequence[RenderableType | int]:
    total = "?" if one.total is None else decimal(one.total)
    if one.stage == "prove":
        # Nothing is sent, so there is nothing to measure.
        return one.generation_id, one.n, one.stage, "", total, "", format_seconds(one.seconds), ""
    bar = ProgressBar(total=one.total, completed=one.done, width=20) if one.total else ""
    rate = _bytes(one.bytes_per_second)
    return one.generation_id, one.n, one.stage, decimal(one.done), total, rate, format_seconds(one.seconds), bar


def _waiting(motion: Throughput) -> RenderableType:
    rows = (
        (one.generation_id, format_seconds(one.waited), one.looks, one.why or "not looked at yet")
        for one in motion.waiting
    )
    return grid(("generation", "waits for", "looks", "why not yet"), rows)


def _sum(rates: Iterable[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    return _count(sum(known)) if known else "-"


def _count(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def _bytes(rate: float | None) -> str:
    return "-" if rate is None else f"{decimal(int(rate))}/s"
