"""The files that browsers get from the package's own `page/` folder: pages, scripts, styles, under fixed addresses.

No address is ever made into a path: what is served is named where the routes are made. Whoever has a page calls
`static` with its files and its content policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from fastapi import APIRouter, Request, Response

STRICT = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The content policy of a page that needs nothing from elsewhere."""

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
}


def static(names: Mapping[str, str], *, policy: str = STRICT) -> APIRouter:
    """Return routes that serve these files of `page/`, by address; `policy` is their Content-Security-Policy.

    They are read once, here; KeyError for a kind that is not served, FileNotFoundError for a file that is not there.
    """
    router = APIRouter()
    for address, name in names.items():
        _add(router, address, name, policy)
    return router


def _add(router: APIRouter, address: str, name: str, policy: str) -> None:
    content = (files("reconciler.http") / "page" / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    kind = _TYPES[name.rpartition(".")[2]]
    headers = {
        "ETag": tag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy,
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
        "Cross-Origin-Opener-Policy": "same-origin",
    }

    async def served(request: Request) -> Response:
        if tag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    router.add_api_route(address, served, methods=["GET", "HEAD"], include_in_schema=False)
