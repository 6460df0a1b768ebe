"""How `top` looks: a view that changes in place on a terminal, one page after the other elsewhere, or lines of JSON.

The figures come from `operations/throughput.py`. Ids and reasons are hostile input: they are shown as text, never as
markup.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Self

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar

from reconciler.cli.render.console import as_plain, console, grid, text
from reconciler.domain.findings.findings import format_seconds
from reconciler.domain.transfer import Transfer
from reconciler.operations.throughput import ReplicaRates, Throughput
from reconciler.postgres.reports.activity import WaitingGeneration


class TopScreen:
    """Shows one Throughput after the other; on a terminal each replaces the one before, unless `once`."""

    def __init__(self, *, as_json: bool, once: bool) -> None:
        self._as_json = as_json
        self._console = console()
        in_place = self._console.is_terminal and not as_json and not once
        self._live = Live(console=self._console, screen=True, auto_refresh=False) if in_place else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, throughput: Throughput) -> None:
        """Show it as a page, or as one line of JSON."""
        if self._as_json:
            sys.stdout.write(json.dumps(asdict(throughput), default=as_plain) + "\n")
            sys.stdout.flush()
        else:
            self._show(page(throughput))

    def excuse(self, reason: str) -> None:
        """Say why there is nothing new; with JSON only on standard error."""
        if self._live is not None:
            self._show(text(f"{reason}; trying again"))
        else:
            sys.stderr.write(f"kie-reconciler: {reason}; trying again\n")

    def _show(self, content: RenderableType) -> None:
        if self._live is None:
            self._console.print(content)
        else:
            self._live.update(content, refresh=True)


def page(throughput: Throughput) -> RenderableType:
    """Return the whole view."""
    parts: list[RenderableType] = [text(_headline(throughput)), "", _replicas(throughput)]
    if throughput.transfers:
        parts += ["", _transfers(throughput.transfers)]
    if throughput.waiting:
        parts += ["", _waiting(throughput.waiting)]
    return Group(*parts)


def _headline(throughput: Throughput) -> str:
    transfers = f"{len(throughput.transfers)} transfers" if len(throughput.transfers) != 1 else "1 transfer"
    booked = ", ".join(
        f"key {key.key_hash[:8]} {f'booked for {key.booked:.1f} s' if key.booked else 'free'}"
        for key in throughput.keys
    )
    polls = _sum(rates.polls_per_second for rates in throughput.replicas)
    requests = f"polls {polls}/s, {booked or 'no key used yet'}"
    return f"{throughput.at:%H:%M:%S %Z}  {transfers}, {throughput.overdue} waiting for a turn; {requests}"


def _replicas(throughput: Throughput) -> RenderableType:
    if not throughput.replicas:
        return text("no replica is alive: start `kie-reconciler run`")
    names = ("replica", "", "reported", "in hand", "polls/s", "delivered/s", "in", "out")
    return grid(names, (_replica(rates, throughput.at) for rates in throughput.replicas))


def _replica(rates: ReplicaRates, now: datetime) -> Sequence[RenderableType | int]:
    return (
        f"{rates.host} pid {rates.pid}",
        "leads" if rates.leads else "",
        f"{format_seconds(max((now - rates.told_at).total_seconds(), 0))} ago",
        rates.held,
        _count(rates.polls_per_second),
        _count(rates.deliveries_per_second),
        _bytes(rates.downloaded_per_second),
        _bytes(rates.uploaded_per_second),
    )


def _transfers(transfers: Sequence[Transfer]) -> RenderableType:
    names = ("generation", "n", "stage", "bytes", "of", "rate", "for", "")
    return grid(names, (_transfer(transfer) for transfer in transfers))


def _transfer(transfer: Transfer) -> Sequence[RenderableType | int]:
    # Nothing is sent while a stored result is proven.
    moves = transfer.stage != "prove"
    return (
        transfer.generation_id,
        transfer.n,
        transfer.stage,
        decimal(transfer.done) if moves else "",
        "?" if transfer.total is None else decimal(transfer.total),
        _bytes(transfer.bytes_per_second) if moves else "",
        format_seconds(transfer.seconds),
        ProgressBar(total=transfer.total, completed=transfer.done, width=20) if moves and transfer.total else "",
    )


def _waiting(waiting: Sequence[WaitingGeneration]) -> RenderableType:
    names = ("generation", "waits for", "polls", "why not yet")
    return grid(
        names,
        ((row.generation_id, format_seconds(row.waited), row.looks, row.why or "not polled yet") for row in waiting),
    )


def _sum(rates: Iterable[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    return _count(sum(known)) if known else "-"


def _count(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def _bytes(rate: float | None) -> str:
    return "-" if rate is None else f"{decimal(int(rate))}/s"
