"""A TCP proxy between the daemon and a server; it fails as networks do: it swallows bytes, cuts, and refuses."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit

from testkit.standins.refusing_server import asks_for_encryption, error_response, fatal, startup

PIECE = 1 << 16


class Proxy:
    """An async context manager in front of the server of an address, a database's or not; `dsn` leads through it."""

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._swallowing = False
        self._refusing = False
        self._full = False
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.WriteTransport] = set()
        self._forgotten: set[asyncio.WriteTransport] = set()
        self.connections = 0
        self.turned_away = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut()
        await self._server.wait_closed()

    @property
    def dsn(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        login, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()

    def lead(self, address: str) -> None:
        """Lead new connections to this server from now on."""
        self._parts = urlsplit(address)

    def swallow(self) -> None:
        """Let every byte vanish from now on, while all connections stay open: a half-open socket."""
        self._swallowing = True

    def forget(self) -> None:
        """Let every byte vanish on the connections of now, for good, while new ones work: a NAT has forgotten them."""
        self._forgotten = set(self._ends)

    async def refuse(self) -> None:
        """Cut every connection and take no new one: the server is away."""
        self._refusing = True
        await self._cut()

    def fill(self) -> None:
        """Answer every new connection as Supavisor does when its pool is full: FATAL, with XX000."""
        self._full = True

    def mend(self) -> None:
        """Let new connections through again, and bytes on the old ones; what was swallowed stays lost."""
        self._swallowing = self._refusing = self._full = False

    async def _cut(self) -> None:
        for end in list(self._ends):
            end.abort()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        if self._full:
            await self._turn_away(reader, writer)
            return
        self.connections += 1
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        ends = [writer.transport]
        try:
            # Without a server the proxy closes the client's connection.
            with contextlib.suppress(OSError):
                there, server = await asyncio.open_connection(self._parts.hostname, self._parts.port)
                ends.append(server.transport)
                # `refuse` did not know this connection yet when it cut all of them.
                if self._server is None or not self._server.is_serving() or self._refusing:
                    return
                self._ends.update(ends)
                await asyncio.gather(self._pass(reader, server), self._pass(there, writer))
        finally:
            self._lines.discard(line)
            self._ends.difference_update(ends)
            for end in ends:
                end.abort()

    async def _turn_away(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asks_for_encryption(await startup(reader)):
            writer.write(b"N")
        writer.write(error_response(fatal("XX000", "MaxClientsInSessionMode: max clients reached")))
        await writer.drain()
        writer.close()
        self.turned_away += 1

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE):
                if not self._swallowing and target.transport not in self._forgotten:
                    target.write(piece)
                    await target.drain()
        # A closed end closes both directions: PostgreSQL sends nothing after that.
        target.transport.abort()
