"""The HTTP application and its server: request limits, request ids, the log line of each request, and error answers.

FastAPI runs on uvicorn in the daemon's event loop, and the daemon handles the signals. `bootstrap/http.py` lists the
routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.domain.object_keys import TYPES, MediaType
from reconciler.health import DRAINING, Health
from reconciler.http import problems
from reconciler.http.bodies import BodyRouter, BodyRule
from reconciler.http.body_limiter import BodyLimiter
from reconciler.http.limits import RequestLimits, protocol_factory
from reconciler.http.openapi import described_app
from reconciler.http.problems import METHODS, Problem
from reconciler.http.routes import monitoring, stored_files
from reconciler.metrics import Metrics
from reconciler.net.listen import bound

log = structlog.get_logger()

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMITS = RequestLimits()


def application(
    health: Health,
    metrics: Metrics,
    files: Path | None = None,
    *,
    types: Mapping[str, MediaType] = TYPES,
    routers: Sequence[APIRouter] = (),
    limits: RequestLimits = _LIMITS,
) -> FastAPI:
    """Return the application; `files` is the folder of the local storage backend, None for other backends.

    `types` are those that are stored there.
    """
    app = described_app()
    problems.install(app)
    own = [monitoring.routes(health, metrics), *([] if files is None else [stored_files.routes(files, types)])]
    rules: dict[str, BodyRule] = {}
    for router in (*routers, *own):
        app.include_router(router)
        rules |= router.body_rules if isinstance(router, BodyRouter) else {}
    app.add_middleware(_RequestMiddleware, limits=limits, rules=rules, health=health)
    return app


class _RequestMiddleware:
    """Gives each request its id, its log line, the common headers of its answer, and a 500 where a route fails."""

    def __init__(self, app: ASGIApp, limits: RequestLimits, rules: Mapping[str, BodyRule], health: Health) -> None:
        self._app = BodyLimiter(app, limits, rules)
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._health)
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._serve(exchange, receive)
            finally:
                exchange.log_served()

    async def _serve(self, exchange: _Exchange, receive: Receive) -> None:
        try:
            await self._app(exchange.scope, receive, exchange.send)
        except Exception:
            log.exception("request.broke", method=exchange.method, route=exchange.route)
            if exchange.status is None:
                internal = Problem(500, "internal", "this is a fault of ours; the log names it under this request id")
                await internal.answer()(exchange.scope, receive, exchange.send)


class _Exchange:
    """One request and its answer: it adds the common headers and writes the log line."""

    def __init__(self, scope: Scope, send: Send, health: Health) -> None:
        # HTTP allows any word of any length as a method; the log names the known ones only.
        self.method = scope["method"] if scope["method"] in METHODS else "other"
        self.status: int | None = None
        self.scope = scope
        self._api: bool = scope["path"].startswith("/api/")
        self._send = send
        self._health = health
        self._began = time.monotonic()
        sent_id = Headers(scope=scope).get("X-Request-Id", "")
        self.request_id = sent_id if _VALID_ID.fullmatch(sent_id) else secrets.token_hex(8)

    @property
    def route(self) -> str:
        """The route's path template; the address itself may hold ids and secrets."""
        return getattr(self.scope.get("route"), "path", "none")

    async def send(self, message: Message) -> None:
        """Send the route's message, with the common headers added."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(MutableHeaders(scope=message))
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self.request_id
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        if self._api:
            headers.setdefault("Cache-Control", "no-store")
        if self._health.reason == DRAINING:
            # The next request on this connection could arrive after the process has ended.
            headers["Connection"] = "close"

    def log_served(self) -> None:
        """Write the request's log line, without its address: the query holds the callback's secret."""
        write = log.info if self._api else log.debug
        took = round(time.monotonic() - self._began, 3)
        write("request.served", method=self.method, route=self.route, status=self.status, took=took)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: FastAPI, host: str, port: int, *, limits: RequestLimits = _LIMITS) -> AsyncIterator[int]:
    """Serve on this address while the context lasts; yield the port. Config where the address cannot be bound."""
    # Bound here, because uvicorn exits the process where it cannot bind.
    listener = bound(host, port)
    settings = uvicorn.Config(
        app,
        http=protocol_factory(limits),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        # uvicorn warns of every malformed request: strangers could fill our log.
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    server = _Server(settings)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()
