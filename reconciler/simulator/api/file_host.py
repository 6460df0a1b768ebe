"""Result files over HTTP: by plain address or download-url link, whole or in ranges, and their faults.

Uploaded files are served too, and streams that stay silent.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass

from aiohttp import web

from reconciler.simulator.api.responses import Responses, reset_connection
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.records.suno import SILENT_STREAM
from reconciler.simulator.tasks import SimulatedTask
from reconciler.simulator.world import World

SIGNATURE = "X-Amz-Signature"
HTML_PAGE = "<!DOCTYPE html><html><head><title>Error</title></head><body>Please try again later.</body></html>"
SLOW_PIECES = 10
SHARED_STEP = 64 << 10
"""The bytes sent at once if all files share one rate."""


@dataclass(frozen=True, slots=True)
class FileTransfer:
    """One download: bytes `start` to `end`, announced as `length` bytes, sent up to `stop`."""

    task: SimulatedTask
    n: int
    media: MediaSpec
    start: int
    end: int
    fault: str | None

    @property
    def stop(self) -> int:
        """The byte at which sending really ends: some faults send only half."""
        if self.fault in {"short", "reset"}:
            return self.start + (self.end - self.start) // 2
        return self.start if self.fault == "empty" else self.end

    @property
    def length(self) -> int | None:
        """The Content-Length, None for none."""
        if self.fault == "no_length":
            return None
        if self.fault == "empty":
            return 0
        return self.end - self.start + (4096 if self.fault == "wrong_length" else 0)


class FileHost:
    """Serves result files."""

    def __init__(self, world: World, responses: Responses) -> None:
        self._world = world
        self._responses = responses
        self._free_at = 0.0

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer GET or HEAD for a path outside the API."""
        if request.path.startswith(SILENT_STREAM):
            return web.Response(body=b"", content_type="audio/mpeg")
        if request.path in self._world.uploads:
            return self._uploaded(request.path)
        found = self._world.file_at(request.path)
        signature = request.query.get(SIGNATURE)
        if signature is not None and self._world.links.get(signature, 0.0) < self._world.clock.now():
            return web.Response(status=403, text="Request has expired")
        if found is None:
            return web.Response(status=404, text="Not Found")
        task, n = found
        task.downloads[n] += 1
        self._world.counts.downloads += 1
        fault = self._world.fault("file", task, n) if "via" not in request.query else None
        if fault is None and signature is None:
            fault = self._world.fault("plain", task, n)
        if fault is not None and (answer := await self._refusal(request, fault)) is not None:
            return answer
        return await self._send(request, task, n, fault)

    def _uploaded(self, path: str) -> web.Response:
        file = self._world.uploads[path]
        if file.expires <= self._world.clock.now():
            return web.Response(status=404, text="Not Found")
        headers = {"Content-Type": file.mime, "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
        return web.Response(body=file.content, headers=headers)

    async def _refusal(self, request: web.BaseRequest, fault: str) -> web.StreamResponse | None:
        """Return the answer that replaces the file, None if the fault is in the file itself."""
        match fault:
            case "403" | "404" | "500":
                return web.Response(status=int(fault), text="<Error/>", content_type="application/xml")
            case "html":
                return web.Response(text=HTML_PAGE, content_type="text/html")
            case "redirect":
                query = f"{request.query_string}&via=1" if request.query_string else "via=1"
                return web.Response(status=302, headers={"Location": f"{request.path}?{query}"})
            case "loop":
                return web.Response(status=302, headers={"Location": str(request.rel_url)})
            case "hang":
                return await self._responses.spoil(request, "hang")
            case _:
                return None

    async def _send(
        self, request: web.BaseRequest, task: SimulatedTask, n: int, fault: str | None
    ) -> web.StreamResponse:
        media = task.files[n]
        span = _byte_range(request.headers.get("Range"), media.size)
        if span is None:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{media.size}"})
        transfer = FileTransfer(task, n, media, *span, fault)
        partial = "Range" in request.headers
        response = web.StreamResponse(status=206 if partial else 200)
        response.headers["Content-Type"] = "text/plain" if fault == "wrong_type" else media.mime
        response.headers["Accept-Ranges"] = "bytes"
        response.headers["ETag"] = f'"{task.id[-32:]}-{n}"'
        if partial:
            response.headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{media.size}"
        if transfer.length is None:
            response.enable_chunked_encoding()
        else:
            response.content_length = transfer.length
        await response.prepare(request)
        if request.method != "HEAD":
            with contextlib.suppress(ConnectionResetError):  # the client has gone away
                await self._stream(request, response, transfer)
        return response

    async def _stream(self, request: web.BaseRequest, response: web.StreamResponse, transfer: FileTransfer) -> None:
        pieces = transfer.media.chunks(transfer.task.id, transfer.n, transfer.start, transfer.stop)
        for piece in pieces:
            if transfer.fault == "slow":
                await self._trickle(response, piece)
            elif self._world.file_rate is not None:
                await self._shared(response, piece, self._world.file_rate)
            else:
                await response.write(piece)
            self._world.counts.sent_bytes += len(piece)
        if transfer.fault == "reset":
            reset_connection(request)
        elif transfer.fault in {"short", "wrong_length"} and request.transport is not None:
            request.transport.close()
        elif transfer.stop == transfer.media.size:
            transfer.task.completed[transfer.n] += 1

    async def _shared(self, response: web.StreamResponse, piece: memoryview, rate: float) -> None:
        for start in range(0, len(piece), SHARED_STEP):
            part = piece[start : start + SHARED_STEP]
            self._free_at = max(self._free_at, time.monotonic()) + len(part) / rate
            await self._responses.wait(self._free_at - time.monotonic())
            await response.write(part)

    async def _trickle(self, response: web.StreamResponse, piece: memoryview) -> None:
        step = max(len(piece) // SLOW_PIECES, 1)
        for start in range(0, len(piece), step):
            await response.write(piece[start : start + step])
            await self._responses.wait(self._world.slow_seconds / SLOW_PIECES)


def _byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes that a Range header requests, None if there are none."""
    if header is None:
        return 0, size
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match.group() == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return (max(size - int(last), 0), size) if int(last) and size else None
    end = min(int(last) + 1, size) if last else size
    return (int(first), end) if int(first) < end else None
