"""The daemon's one port: the routes it is given, within limits, with a request id, with an answer to whatever breaks.

FastAPI on uvicorn in the daemon's own loop, under the daemon's own signals. The application is built from what it
serves and knows nothing of how that is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.domain.object_keys import CALLBACK_PATH
from reconciler.errors import Config
from reconciler.health import DRAINING, Health
from reconciler.http import problems
from reconciler.http.limits import BodyLimiter, RequestLimits, prompt
from reconciler.http.openapi import described
from reconciler.http.problems import METHODS, Problem
from reconciler.http.routes import monitoring
from reconciler.metrics import Metrics

log = structlog.get_logger()

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMITS = RequestLimits()


def application(
    health: Health,
    metrics: Metrics,
    files: Path | None = None,
    *,
    routers: Sequence[APIRouter] = (),
    limits: RequestLimits = _LIMITS,
) -> FastAPI:
    """Return the routes; `files` is the local backend's folder, None where storage is elsewhere."""
    app = described()
    problems.install(app)
    own = [monitoring.routes(health, metrics), *([] if files is None else [monitoring.stored_files(files)])]
    for router in (*routers, *own):
        app.include_router(router)
    app.add_middleware(_Border, limits=limits, metrics=metrics, health=health)
    return app


class _Border:
    """Around a request: its id, its line in the log, the headers of every answer, and 500 for whatever breaks."""

    def __init__(self, app: ASGIApp, limits: RequestLimits, metrics: Metrics, health: Health) -> None:
        self._app = BodyLimiter(app, limits)
        self._metrics = metrics
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._health)
        with structlog.contextvars.bound_contextvars(request_id=answer.request_id):
            try:
                await self._answered(answer, receive)
            finally:
                answer.tell()

    async def _answered(self, answer: _Answer, receive: Receive) -> None:
        try:
            await self._app(answer.scope, receive, answer.send)
        except Problem as problem:
            if problem.status == 413 and answer.scope["path"] == CALLBACK_PATH:
                # It never reaches the route that counts the others.
                self._metrics.callbacks.labels("too_large").inc()
            await problem.answer()(answer.scope, receive, answer.send)
        except Exception:
            log.exception("request.broke", method=answer.method, route=answer.route)
            if answer.status is None:
                told = Problem(500, "internal", "this is a fault of ours; the log tells more under this request id")
                await told.answer()(answer.scope, receive, answer.send)


class _Answer:
    """What goes out for one request, and what is told of it afterwards."""

    def __init__(self, scope: Scope, send: Send, health: Health) -> None:
        # HTTP lets a method be any word of any length.
        self.method = scope["method"] if scope["method"] in METHODS else "other"
        self.status: int | None = None
        self.scope = scope
        self._api: bool = scope["path"].startswith("/api/")
        self._send = send
        self._health = health
        self._began = time.monotonic()
        given = Headers(scope=scope).get("X-Request-Id", "")
        self.request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)

    @property
    def route(self) -> str:
        """The route's template: the address itself may hold ids and secrets."""
        return getattr(self.scope.get("route"), "path", "none")

    async def send(self, message: Message) -> None:
        """Pass on what the route says, with what every answer carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._complete(MutableHeaders(scope=message))
        await self._send(message)

    def _complete(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self.request_id
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        if self._api:
            headers.setdefault("Cache-Control", "no-store")
        if self._health.reason == DRAINING:
            # What would come over this connection next might meet its end.
            headers["Connection"] = "close"

    def tell(self) -> None:
        """Write the request's line: never its address, whose query holds the callback's secret."""
        write = log.info if self._api else log.debug
        took = round(time.monotonic() - self._began, 3)
        write("request.served", method=self.method, route=self.route, status=self.status, took=took)


class _Server(uvicorn.Server):
    """uvicorn without its own signals: the daemon has one way to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: FastAPI, host: str, port: int, *, limits: RequestLimits = _LIMITS) -> AsyncIterator[int]:
    """Serve on this address while the context lasts; yields the port. Config when it cannot be taken."""
    # Bound here, because uvicorn ends the process itself where it cannot bind.
    listening = _bound(host, port)
    settings = uvicorn.Config(
        app,
        http=prompt(limits),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        # Its warnings are of requests that are no HTTP: strangers would write our log.
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    server = _Server(settings)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listening.close()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio leaves Nagle's algorithm on: head and body go out apart, the body 40 ms later.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise Config(
            f"cannot listen on {host} port {port}: {error.strerror}",
            hint="set RECONCILER_HTTP_HOST and RECONCILER_HTTP_PORT to a free address",
        ) from error
    return made
