"""Builds HTTP responses as KIE sends them, and acts out the faults of a response.

It knows nothing about tasks. Called by `api/api.py` and `files.py`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from types import MappingProxyType

from aiohttp import web

from reconciler.simulator.options import Options

JSON = "application/json;charset=UTF-8"
CLOUDFLARE_HEADERS = MappingProxyType(
    {
        "Server": "cloudflare",
        "CF-RAY": "9f1e2d3c4b5a6978-FRA",
        "cf-cache-status": "DYNAMIC",
        "Set-Cookie": "__cf_bm=simulated; path=/; HttpOnly; Secure",
    }
)
MESSAGES = MappingProxyType(
    {
        401: "You do not have access permissions",
        402: "Credits insufficient",
        403: "Forbidden",
        404: "Task not found",
        408: "Upstream is timed out",
        422: "recordInfo is null",
        429: "Rate limit exceeded",
        433: "The sub-key usage exceeds the limit",
        455: "The server is under maintenance",
        500: "Server exception, please try again later or contact customer service",
    }
)
RATE_LIMIT_MESSAGE = "Your call frequency is too high. Please try again later."
HTML_TITLES = MappingProxyType({"502": "Bad gateway", "503": "Service temporarily unavailable"})
HTML_ERROR = (
    "<!DOCTYPE html><html><head><title>api.kie.ai | {0}: {1}</title></head>"
    "<body><h1>{1} <span>Error code {0}</span></h1><p>cloudflare</p></body></html>"
)


def envelope(code: int, message: str, record: object) -> bytes:
    """Return KIE's envelope around a record."""
    return json.dumps({"code": code, "msg": message, "data": record}, separators=(",", ":")).encode()


class Responses:
    """Builds responses as KIE does."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every hanging request."""
        self._closing.set()

    def reply(
        self, request: web.BaseRequest, body: bytes, *, status: int = 200, packed: bytes | None = None
    ) -> web.Response:
        """Return a JSON response, compressed if the client accepts it; `packed` is the compressed body."""
        if not self._options.compress:
            return web.Response(body=body, status=status, headers={"Content-Type": JSON})
        headers = {"Content-Type": JSON, **CLOUDFLARE_HEADERS}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = packed or compress(body)
        answer = web.Response(body=body, status=status, headers=headers)
        answer.enable_chunked_encoding()
        return answer

    def accept(self, request: web.BaseRequest, record: object) -> web.Response:
        """Return code 200 with a record."""
        return self.reply(request, envelope(200, "success", record))

    def refuse(
        self, request: web.BaseRequest, code: int, message: str | None = None, *, status: int | None = None
    ) -> web.Response:
        """Return a refusal: HTTP 200 with the code in the body, unless the options or `status` say otherwise."""
        if status is None:
            status = code if self._options.http_errors and code >= 400 else 200
        return self.reply(request, envelope(code, message or MESSAGES[code], None), status=status)

    async def spoil(self, request: web.BaseRequest, what: str, body: bytes = b"") -> web.StreamResponse:
        """Act out a fault of the transport or of the gateway; `body` is the undisturbed answer."""
        manner, _, number = what.partition("_")
        match manner:
            case "http":
                return self.refuse(request, int(number), status=int(number))
            case "body":
                return self.refuse(request, int(number), status=200)
            case "html":
                text = HTML_ERROR.format(number, HTML_TITLES.get(number, "Web server error"))
                return web.Response(text=text, status=int(number), content_type="text/html", headers=CLOUDFLARE_HEADERS)
            case "frequency":
                return self.refuse(request, 429, RATE_LIMIT_MESSAGE, status=200)
            case "cloudflare":
                return web.Response(text="error code: 1010", status=403, headers=CLOUDFLARE_HEADERS)
            case "truncated":
                return web.Response(body=body[: len(body) * 3 // 5], headers={"Content-Type": JSON})
            case "hang":
                await self.wait(self._options.hang_seconds)
        return reset_connection(request)

    async def wait(self, seconds: float) -> None:
        """Wait for these seconds, or until the simulator closes."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return


async def json_object(request: web.BaseRequest) -> dict[str, object]:
    """Return the JSON object of a request's body, an empty one for any other body."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def compress(body: bytes) -> bytes:
    """Return the body as the gateway compresses it."""
    return gzip.compress(body, 1, mtime=0)


def reset_connection(request: web.BaseRequest) -> web.Response:
    """Reset the connection, so that the client gets an error and no answer."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
    return web.Response(status=499)
