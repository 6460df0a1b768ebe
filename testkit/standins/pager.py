"""The receiver of Alertmanager's webhook; it records each page and its time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Told:
    """One alert in one message: `at` is the Unix time when the message came, `status` firing or resolved."""

    at: float
    receiver: str
    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class Pager:
    """Listens on loopback while it is entered; a message without the credentials is refused."""

    def __init__(self, credentials: str) -> None:
        self._expected = f"Bearer {credentials}"
        self.told: list[Told] = []
        self.refused = 0

    def of(self, alertname: str, status: str) -> list[Told]:
        """What it was told of one alert."""
        return [one for one in self.told if (one.labels["alertname"], one.status) == (alertname, status)]

    async def _hear(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != self._expected:
            self.refused += 1
            return web.Response(status=401)
        at, message = time.time(), await request.json()
        self.told += [_told(at, message["receiver"], alert) for alert in message["alerts"]]
        return web.Response()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/hooks/kie-reconciler", self._hear)
        # Not 0: the library takes that for no limit.
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hooks/kie-reconciler"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


def _told(at: float, receiver: str, alert: Mapping[str, Any]) -> Told:
    return Told(at, receiver, alert["status"], alert["labels"], alert["annotations"])
