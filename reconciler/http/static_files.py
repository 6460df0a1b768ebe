"""Serves files of the package's `page/` folder to browsers: pages, scripts, styles, at fixed addresses.

No address becomes a path: the caller names each file that is served, and the page's Content-Security-Policy.
`routes/page.py` and `openapi.py` call `static_routes`.
"""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from fastapi import APIRouter, Request, Response

SAME_ORIGIN = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The directives of every page's Content-Security-Policy, without those for images and media."""

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
}


def static_routes(names: Mapping[str, str], *, policy: str = f"{SAME_ORIGIN}; img-src 'self'") -> APIRouter:
    """Return routes that serve these files of `page/`, by address; `policy` is their Content-Security-Policy.

    The files are read once, now. KeyError for an unknown file type, FileNotFoundError for a missing file.
    """
    router = APIRouter()
    for address, name in names.items():
        _add_route(router, address, name, policy)
    return router


def _add_route(router: APIRouter, address: str, name: str, policy: str) -> None:
    content = (files("reconciler.http") / "page" / name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    media_type = _TYPES[name.rpartition(".")[2]]
    headers = {
        "ETag": etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy,
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
        "Cross-Origin-Opener-Policy": "same-origin",
    }

    async def serve(request: Request) -> Response:
        if etag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    router.add_api_route(address, serve, methods=["GET", "HEAD"], include_in_schema=False)
