"""The daemon's one port: health, figures, the routes it is given and, for the local backend, the stored files.

FastAPI on uvicorn in the daemon's own loop, under the daemon's own signals. The application is built from what it
serves and knows nothing of how that is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse

from reconciler import __version__
from reconciler.core.naming import TYPES
from reconciler.doors import problems
from reconciler.doors.health import Health
from reconciler.errors import Config
from reconciler.metrics import Metrics

_MIMES = {ext: mime for mime, (_, ext) in TYPES.items()}


def application(
    health: Health, metrics: Metrics, files: Path | None = None, *, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """Return the routes; `files` is the local backend's folder, None where storage is elsewhere."""
    app = FastAPI(title="kie-reconciler", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)
    for router in routers:
        app.include_router(router)

    @app.get("/metrics")
    def figures(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    @app.get("/healthz")
    def alive() -> Response:
        if health.beats():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the loop does not turn\n", status_code=503)

    @app.get("/readyz")
    def ready() -> Response:
        reason = health.unready()
        return JSONResponse({"ready": reason is None, "reason": reason}, status_code=200 if reason is None else 503)

    if files is not None:
        _serve_files(app, files)
    return app


def _serve_files(app: FastAPI, folder: Path) -> None:
    root = folder.resolve()

    @app.get("/files/{key:path}")
    def stored(key: str) -> Response:
        path = (root / key).resolve()
        mime = _MIMES.get(path.suffix.removeprefix("."))
        # No object's path has a segment that begins with a dot; what is still being written lies below one.
        hidden = not path.is_relative_to(root) or any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or mime is None or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, media_type=mime, headers={"X-Content-Type-Options": "nosniff"})


class _Server(uvicorn.Server):
    """uvicorn without its own signals: the daemon has one way to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: FastAPI, host: str, port: int) -> AsyncIterator[int]:
    """Serve on this address while the context lasts; yields the port. Config when it cannot be taken."""
    # Bound here, because uvicorn ends the process itself where it cannot bind.
    listening = _bound(host, port)
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=5
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
    made = socket.socket(family, socket.SOCK_STREAM)
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
