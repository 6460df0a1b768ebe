"""The simulated KIE as a running server: `async with Simulator(seed=1, speed=20) as kie`.

Composes the world with its two hosts, which share one port: the API below /api, result files everywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from reconciler.simulator.api.api import Api
from reconciler.simulator.api.callbacks import CallbackSender
from reconciler.simulator.api.file_host import Files
from reconciler.simulator.api.responses import Wire
from reconciler.simulator.world import World


@dataclass(kw_only=True)
class Simulator(World):
    """A fake KIE on loopback; every switch of `Options` is an argument, every part of `World` an attribute."""

    @property
    def url(self) -> str:
        """The base address of the API."""
        return self.origin

    @property
    def files_url(self) -> str:
        """The base address of result files."""
        return self.origin

    async def __aenter__(self) -> Self:
        self._wire = Wire(self)
        self._api = Api(self, self._wire)
        self._host = Files(self, self._wire)
        server = web.Server(self._serve, access_log=None, keepalive_timeout=75.0)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, backlog=1024).start()
        self.port = self._runner.addresses[0][1]
        self.origin = f"http://{self.host}:{self.port}"
        self._courier = CallbackSender(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wire.close()
        await self._courier.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/api/"):
            return await self._api.serve(request)
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=405)
        return await self._host.serve(request)
