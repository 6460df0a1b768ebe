"""The HTTP clients: what every request carries, what they refuse, and what a Retry-After means."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.net.http_clients import (
    SILENCE,
    USER_AGENT,
    json_client,
    kie_session,
    media_session,
    retry_after,
    storage_session,
)
from tests.wire import ok, origin

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        (" 17 ", 17.0),
        ("99999999999999999999", 86_400.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 13:00:30 +0100", 30.0),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Sun, 01 Mar 2037 11:00:00 GMT", 86_400.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("Sun, 99 Foo 2026 11:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_and_else_ignored(
    header: str | None, seconds: float | None
) -> None:
    assert retry_after(header, NOW) == seconds


@given(st.text())
def test_any_text_in_retry_after_gives_none_or_up_to_a_day(header: str) -> None:
    wait = retry_after(header, NOW)
    assert wait is None or 0 <= wait <= timedelta(days=1).total_seconds()


async def test_every_client_sends_its_user_agent_and_keeps_no_cookies() -> None:
    answer = ok(b"{}", "Set-Cookie: a=b")
    async with origin(answer) as server:
        async with json_client() as client:
            for _ in range(2):
                await client.get(server.url)
        for session in (media_session(allow_private=True, slots=2), storage_session(slots=2), kie_session()):
            async with session:
                for _ in range(2):
                    async with session.get(server.url) as response:
                        await response.read()
    for head in server.heads:
        assert f"user-agent: {USER_AGENT}\r\n" in head.lower()
        assert "accept-encoding: identity\r\n" in head.lower()
    assert not any("cookie:" in head.lower() for head in server.heads[2:])


async def test_no_client_uses_the_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with origin(ok(b"proxy")) as proxy, origin(ok(b"right")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with json_client() as client:
            assert (await client.get(server.url)).content == b"right"
        for session in (storage_session(slots=2), kie_session()):
            async with session, session.get(server.url) as response:
                assert await response.read() == b"right"
    assert proxy.connections == 0


async def test_the_json_client_follows_no_redirect() -> None:
    async with origin(ok(b"", "Location: /elsewhere", status="302 F")) as server, json_client() as client:
        assert (await client.get(server.url)).status_code == 302
    assert server.paths == ["/"]


async def test_the_json_client_applies_the_given_timeout() -> None:
    async with json_client(timeout=3.0) as client:
        assert client.timeout.read == 3.0
        assert client.timeout.connect == 3.0
    async with json_client() as client:
        assert client.timeout.read == SILENCE
        assert client.timeout.connect == 10.0


async def test_the_kie_session_applies_the_given_timeout() -> None:
    async with kie_session(timeout=3.0) as session:
        assert (session.timeout.sock_read, session.timeout.sock_connect) == (3.0, 3.0)
    async with kie_session() as session:
        assert (session.timeout.sock_read, session.timeout.sock_connect) == (SILENCE, 10.0)


async def test_without_keep_alive_no_connection_is_used_twice() -> None:
    opened = 0

    async def keep_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(keep_alive, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for session, connections in ((kie_session(), 1), (kie_session(keep_alive=False), 3)):
            opened = 0
            async with session:
                for _ in range(3):
                    async with session.get(url) as response:
                        await response.read()
            assert opened == connections


async def test_the_storage_session_reaches_private_addresses_and_the_media_session_does_not() -> None:
    async with origin(ok(b"ours")) as server:
        async with storage_session(slots=2) as session, session.get(server.url) as response:
            assert await response.read() == b"ours"
        async with media_session(allow_private=False, slots=2) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(server.url)
    assert server.connections == 1
