"""DNS rebinding: a connection is made only to an IP address that was checked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from reconciler.errors import Permanent
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import SpoolDirectory
from reconciler.net import addresses
from reconciler.net.http_clients import media_session
from tests.wire import ok, origin

PNG = b"\x89PNG\r\n\x1a\n" + bytes(9000)
OUTSIDE = "127.0.0.2"


@pytest.fixture
async def session(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiohttp.ClientSession]:
    """Return a session that takes one address of this machine for a public one."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == OUTSIDE or real(address))
    async with media_session(allow_private=False, slots=4) as opened:
        yield opened


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Resolve the name to these addresses, one for each lookup; the last one for all further lookups."""
    answers = [OUTSIDE, "127.0.0.1"]

    def answer(host: str, port: int, *_: object, **__: object) -> list[object]:
        led = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (led, port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return answers


def forget(session: aiohttp.ClientSession) -> None:
    """Clear the DNS cache, so that the next lookup is a new one."""
    assert isinstance(session.connector, aiohttp.TCPConnector)
    session.connector.clear_dns_cache()


async def test_the_second_fetch_of_a_name_is_checked_like_the_first(
    session: aiohttp.ClientSession, name: list[str], tmp_path: Path
) -> None:
    fetcher, room = Fetcher(session, hosts=("*",), max_bytes=1 << 20), SpoolDirectory(tmp_path, 1 << 30)
    async with origin(ok(PNG), host=OUTSIDE) as outside, origin(ok(PNG)) as inside:
        async with room.spool() as spool:
            assert await fetcher.fetch(f"http://rebound.example:{outside.port}/a.png", spool) == "image/png"
        forget(session)
        async with room.spool() as spool:
            with pytest.raises(Permanent) as caught:
                await fetcher.fetch(f"http://rebound.example:{inside.port}/a.png", spool)
    assert caught.value.code == "address_refused"
    assert (outside.connections, inside.connections) == (1, 0)


async def test_a_redirect_to_the_same_name_with_a_private_address_by_now_is_refused(
    session: aiohttp.ClientSession, name: list[str], tmp_path: Path
) -> None:
    async def onward(writer: asyncio.StreamWriter, head: str) -> None:
        forget(session)
        writer.write(ok(b"", f"Location: http://rebound.example:{inside.port}/a.png", status="302 Found"))

    fetcher, room = Fetcher(session, hosts=("*",), max_bytes=1 << 20), SpoolDirectory(tmp_path, 1 << 30)
    async with origin(ok(PNG)) as inside, origin(onward, host=OUTSIDE) as outside, room.spool() as spool:
        with pytest.raises(Permanent) as caught:
            await fetcher.fetch(f"http://rebound.example:{outside.port}/", spool)
    assert caught.value.code == "address_refused"
    assert (outside.connections, inside.connections) == (1, 0)
