"""The clients: which addresses are public, what a Retry-After means, what every request carries."""

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
    is_public,
    json_client,
    kie_session,
    media_session,
    retry_after,
    storage_session,
)
from tests.wire import ok, origin

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

PUBLIC = [
    "8.8.8.8",
    "104.16.0.1",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
NOT_PUBLIC = [
    "",
    "localhost",
    "127.0.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "10.255.0.1",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.169.254",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.0.1",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.251",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2002:c0a8:1::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "100::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_leads_inside_is_not_public_however_it_is_written(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_changes_nothing_about_it(ip: object) -> None:
    number = int(ip)  # type: ignore[call-overload]
    inside = is_public(str(ip))
    assert is_public(f"::ffff:{ip}") == inside
    assert is_public(f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}") == inside
    assert is_public(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1") == inside


@pytest.mark.parametrize(
    ("said", "seconds"),
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
def test_retry_after_is_seconds_or_a_date_and_never_nonsense(said: str | None, seconds: float | None) -> None:
    assert retry_after(said, NOW) == seconds


@given(st.text())
def test_no_retry_after_breaks_the_reader(said: str) -> None:
    wait = retry_after(said, NOW)
    assert wait is None or 0 <= wait <= timedelta(days=1).total_seconds()


async def test_every_client_says_who_asks_and_takes_no_cookies() -> None:
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


async def test_no_client_follows_the_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_the_json_client_waits_no_longer_than_told() -> None:
    async with json_client(timeout=3.0) as client:
        assert client.timeout.read == 3.0
        assert client.timeout.connect == 3.0
    async with json_client() as client:
        assert client.timeout.read == SILENCE
        assert client.timeout.connect == 10.0


async def test_kie_is_waited_for_no_longer_than_told() -> None:
    async with kie_session(timeout=3.0) as session:
        assert (session.timeout.sock_read, session.timeout.sock_connect) == (3.0, 3.0)
    async with kie_session() as session:
        assert (session.timeout.sock_read, session.timeout.sock_connect) == (SILENCE, 10.0)


async def test_who_does_not_last_never_uses_a_connection_twice() -> None:
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
        for session, connections in ((kie_session(), 1), (kie_session(lasting=False), 3)):
            opened = 0
            async with session:
                for _ in range(3):
                    async with session.get(url) as response:
                        await response.read()
            assert opened == connections


async def test_our_own_storage_may_be_anywhere_but_media_may_not() -> None:
    async with origin(ok(b"ours")) as server:
        async with storage_session(slots=2) as session, session.get(server.url) as response:
            assert await response.read() == b"ours"
        async with media_session(allow_private=False, slots=2) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(server.url)
    assert server.connections == 1
