"""The simulator as a running server: `async with Simulator(seed=1, speed=20) as kie`.

The API and the file host share one port: the API answers below /api, the file host all other paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from reconciler.simulator.api.api import Api
from reconciler.simulator.api.callbacks import CallbackSender
from reconciler.simulator.api.file_host import FileHost
from reconciler.simulator.api.responses import Responses
from reconciler.simulator.world import World


@dataclass(kw_only=True)
class Simulator(World):
    """A local KIE; every option of `Options` is an argument, every attribute of `World` is available."""

    @property
    def url(self) -> str:
        """The base address of the API."""
        return self.origin

    @property
    def files_url(self) -> str:
        """The base address of result files."""
        return self.origin

    async def __aenter__(self) -> Self:
        self._responses = Responses(self)
        self._api = Api(self, self._responses)
        self._file_host = FileHost(self, self._responses)
        server = web.Server(self._serve, access_log=None, keepalive_timeout=75.0)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, backlog=1024).start()
        self.port = self._runner.addresses[0][1]
        self.origin = f"http://{self.host}:{self.port}"
        self._callbacks = CallbackSender(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._responses.close()
        await self._callbacks.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/api/"):
            return await self._api.serve(request)
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=405)
        return await self._file_host.serve(request)
