"""One `kie-reconciler run` as a real process: start it, read its log and metrics, send it signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from prometheus_client.parser import text_string_to_metric_families

from testkit.waiting import until

PROGRAM = (sys.executable, "-m", "reconciler")
ROOT = str(Path(__file__).parents[1])


@contextlib.contextmanager
def _files(folder: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stderr").open("wb") as errors, (folder / "stdout").open("wb") as output:
        yield errors, output


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    lines: list[str]
    """What a person reads on standard error: everything but the log."""
    output: str


class Replica:
    """A running daemon; `log` is everything it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors
        self._port = 0
        # A line for each question: the server hangs up on idle ones after 5 s, maybe while the next one is on its way.
        alone = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(trust_env=False, verify=False, timeout=5, limits=alone)

    @classmethod
    async def start(
        cls, folder: Path, environment: Mapping[str, str], *arguments: str, through: Sequence[str] = ()
    ) -> Replica:
        """Start `run`; `through` is a program that starts it in turn."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": ROOT, **environment}
        with _files(folder) as (errors, output):
            process = await asyncio.create_subprocess_exec(
                *through, *PROGRAM, "run", *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=errors, cwd=folder, env=environment,
            )  # fmt: skip
        return cls(process, folder / "stderr")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines() if line.startswith("{")]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log about this event."""
        return [line for line in self.log if line["event"] == event]

    def _lines(self) -> list[str]:
        whole, _, rest = self._errors.read_text(errors="replace").rpartition("\n")
        lines = whole.splitlines()
        return lines if self.running else [*lines, *rest.splitlines()]

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        await self._process.wait()
        await self._client.aclose()

    async def ended(self, within: float) -> Ended:
        """Wait for its end."""
        try:
            code = await asyncio.wait_for(self._process.wait(), within)
        except TimeoutError:
            raise AssertionError(f"still running after {within:g} s: {self._lines()[-5:]}") from None
        await self._client.aclose()
        output = self._errors.with_name("stdout").read_text()
        return Ended(code, [line for line in self._lines() if not line.startswith("{")], output)

    async def port(self) -> int:
        def told() -> int:
            assert self.running, f"it ended: {self._lines()[-5:]}"
            if not self._port and (started := self.said("daemon.started")):
                self._port = int(started[0]["port"])
            return self._port

        return await until(told, within=90, what="the port of a replica")

    async def get(self, path: str) -> httpx.Response:
        return await self._client.get(f"http://127.0.0.1:{await self.port()}{path}")

    async def ready(self, within: float = 90) -> Replica:
        """Wait until it is ready."""

        async def is_ready() -> bool:
            return (await self.get("/readyz")).status_code == 200

        await until(is_ready, within, "a replica that is ready")
        return self

    async def reason(self) -> str | None:
        """Why it is not ready."""
        reason: str | None = (await self.get("/readyz")).json()["reason"]
        return reason

    async def figure(self, name: str, **labels: str) -> float:
        """The sum of a metric over all labels that are not given; 0 where nothing was counted yet."""
        text = (await self.get("/metrics")).text
        assert f"# TYPE kie_reconciler_{name} " in text, f"there is no metric {name}"
        families = text_string_to_metric_families(text)
        samples = [one for family in families for one in family.samples if one.name == f"kie_reconciler_{name}"]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    async def delivers(self, least: int, **labels: str) -> float:
        """Wait until it counts so many deliveries, and how many it counts.

        A row shows its delivery an instant before its visit ends and counts it.
        """
        counted = 0.0

        async def enough() -> bool:
            nonlocal counted
            counted = await self.figure("deliveries_total", outcome="delivered", **labels)
            return counted >= least

        await until(enough, what=f"{least} deliveries that are counted")
        return counted
