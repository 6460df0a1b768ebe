"""Reads, discards and cuts bodies and connections."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from testkit.standins.storage.faults import FAULT


def cut(request: web.Request) -> None:
    """Ends the connection without another byte."""
    if request.transport is not None:
        request.transport.abort()


async def drain(request: web.Request) -> None:
    """Reads what is left of the body, as a gateway does."""
    with contextlib.suppress(ConnectionError, web.RequestPayloadError):
        while await request.content.readany():
            pass


async def pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes, up to where a fault cuts it."""
    fault, seen = request[FAULT], 0
    while piece := await request.content.readany():
        seen += len(piece)
        if fault is not None and fault.kind == "cut" and seen >= fault.after:
            yield piece[: len(piece) - (seen - fault.after)]
            cut(request)
            raise ConnectionResetError
        yield piece
