"""The server: start and stop, keys, buckets, failures on demand."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import jwt
from aiohttp import web

from testkit.standins.storage import answers
from testkit.standins.storage.answers import Refused
from testkit.standins.storage.faults import FAULT, Fault, Faults
from testkit.standins.storage.objects import Objects
from testkit.standins.storage.resumable import Resumable
from testkit.standins.storage.shelf import Bucket, Shelf, Thing, Written
from testkit.standins.storage.wire import cut, drain

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]

PATIENCE = 30.0


class SupabaseStorage:
    """An async context manager; `url` and `key` are what a client is configured with.

    `direct=True` behaves as without a gateway: early refusals leave the body unread and the connection open.
    """

    def __init__(
        self,
        buckets: Mapping[str, Bucket] | None = None,
        *,
        port: int = 0,
        direct: bool = False,
        secret: str | None = None,
    ) -> None:
        self.buckets: dict[str, Bucket] = dict(buckets or {"generations": Bucket()})
        self.shelf = Shelf()
        self.faults = Faults()
        self.requests: Counter[str] = Counter()
        self.project_limit: int | None = None
        self.direct = direct
        self.secret = secret or secrets.token_hex(32)
        self.closing = asyncio.Event()
        self.resumable = Resumable(self)
        self._port = port
        self._trusted: dict[str, dict[str, Any]] = {}
        self._runner: web.AppRunner | None = None
        self._kept: socket.socket | None = None
        self.url = ""
        self.key = self.token("service_role")

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        site = web.SockSite(self._runner, self._socket())
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self._release_port()
        self.shelf.close()

    def _socket(self) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.direct:
            # What the kernel takes in for a server that does not read must be less than a body.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        listening.bind(("127.0.0.1", self._port))
        self._release_port()
        return listening

    def _release_port(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    async def stop(self) -> None:
        """Goes away as a server does; what it keeps stays, and `__aenter__` brings it back on the same port."""
        self.closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            # Without it another server, or the other end of a connection, may get the port, and answer.
            self._kept = socket.socket()
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._kept.bind(("127.0.0.1", self._port))
        self.closing.clear()

    @property
    def objects(self) -> dict[str, Thing]:
        return self.shelf.objects

    @property
    def history(self) -> dict[str, list[Written]]:
        return self.shelf.history

    def twice(self) -> dict[str, set[str]]:
        """The names that were ever written with more than one content."""
        return self.shelf.twice()

    def token(self, role: str | None, **claims: object) -> str:
        """A signed key; `exp` in seconds since 1970 makes it end."""
        body = {"iss": "supabase-demo", **({"role": role} if role else {}), **claims}
        return jwt.encode(body, self.secret, algorithm="HS256")

    async def pause(self, seconds: float) -> None:
        """Waits, but not for longer than the server lives."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)

    def role(self, request: web.Request) -> str:
        header = request.headers.get("Authorization")
        if header is None:
            raise Refused(
                "400",
                "Error",
                "InvalidRequest",
                "headers must have required property 'authorization'",
            )
        token = header.removeprefix("Bearer ")
        claims = self._trusted.get(token)
        if claims is None or "exp" in claims:
            claims = self._trusted[token] = self._claims(token)
        role = str(claims.get("role", "anon"))
        if role not in ("service_role", "authenticated", "anon"):
            raise Refused("500", "DatabaseError", "DatabaseError", "database error, code: 22023")
        return role

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return jwt.decode(token, self.secret, algorithms=["HS256"])
        except jwt.InvalidSignatureError as error:
            raise answers.denied("signature verification failed") from error
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError) as error:
            raise answers.denied('"exp" claim timestamp check failed') from error
        except jwt.InvalidTokenError as error:
            raise answers.denied("Invalid Compact JWS") from error

    def bucket(self, request: web.Request) -> Bucket:
        bucket = self.buckets.get(request.match_info["bucket"])
        if bucket is None:
            raise answers.no_bucket()
        return bucket

    def route(self, operation: str, inner: Route) -> Route:
        async def answer(request: web.Request) -> web.StreamResponse:
            self.requests[operation] += 1
            fault = self.faults.take(operation, request.match_info.get("key", ""))
            request[FAULT] = fault
            if fault is not None and (response := await self._spoilt(request, fault)):
                return response
            try:
                response = await inner(request)
            except Refused as refused:
                response = await self._refuse(request, refused)
            except (ConnectionError, web.RequestPayloadError):
                cut(request)
                return web.Response()
            if fault is not None and fault.kind == "lost":
                cut(request)
            return response

        return answer

    async def _spoilt(self, request: web.Request, fault: Fault) -> web.StreamResponse | None:
        if fault.kind == "slow":
            await self.pause(fault.seconds)
            return None
        if fault.kind == "deaf":
            await self.pause(PATIENCE)
            cut(request)
            return web.Response()
        if fault.kind not in ("html", "no_route", "error", "limited", "garbage", "stall"):
            return None
        await drain(request)
        match fault.kind:
            case "html":
                return answers.page(fault.status)
            case "no_route":
                # Kong's word, which stands before storage at Supabase.
                return web.json_response({"message": "no Route matched with those values"}, status=404)
            case "garbage":
                return answers.page(200)
            case "error":
                return answers.fault(fault.status).response()
            case "limited":
                limited = Refused("429", "too_many_connections", "SlowDown", "Too many").response()
                limited.headers["Retry-After"] = f"{fault.seconds:g}"
                return limited
            case _:
                await self.pause(PATIENCE)
                cut(request)
                return web.Response()

    async def _refuse(self, request: web.Request, refused: Refused) -> web.StreamResponse:
        response = refused.response()
        if not (self.direct and refused.early and request.can_read_body):
            await drain(request)
            return response
        await response.prepare(request)
        await response.write_eof()
        await self.pause(PATIENCE)
        cut(request)
        return response

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 40)
        bucket = self.route("bucket", self._get_bucket)
        application.router.add_route("GET", "/storage/v1/bucket/{bucket}", bucket)
        application.router.add_route("GET", "/standin/history", self._history)
        self.resumable.add(application, "/storage/v1/upload/resumable")
        Objects(self).add(application, "/storage/v1/object")
        return application

    async def _get_bucket(self, request: web.Request) -> web.StreamResponse:
        if self.role(request) != "service_role":
            raise answers.no_bucket()
        bucket, name = self.bucket(request), request.match_info["bucket"]
        body = {
            "id": name,
            "name": name,
            "owner": "",
            "public": bucket.public,
            "file_size_limit": bucket.file_size_limit,
            "allowed_mime_types": bucket.allowed_mime_types,
            "created_at": "2025-01-01T00:00:00.000Z",
            "updated_at": "2025-01-01T00:00:00.000Z",
            "type": "STANDARD",
        }
        return web.json_response(body)

    async def _history(self, request: web.Request) -> web.StreamResponse:
        """What was written, for tests that run this server as a process of its own."""
        written = {
            name: [{"md5": w.md5, "size": w.size, "way": w.way} for w in all_] for name, all_ in self.history.items()
        }
        return web.json_response({"written": written, "requests": dict(self.requests)})
