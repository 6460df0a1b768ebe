"""Which addresses are fetched: only those on listed hosts with public IP addresses."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from reconciler.errors import Permanent, ReconcilerError
from reconciler.media.fetch import Fetcher
from reconciler.media.spool import SpoolDirectory
from reconciler.net import addresses
from reconciler.net.http_clients import media_session
from tests.wire import ok, origin

PNG = b"\x89PNG\r\n\x1a\n" + bytes(9000)
LISTED = ("aiquickdraw.com", "kie.ai")


@pytest.fixture
def room(tmp_path: Path) -> SpoolDirectory:
    return SpoolDirectory(tmp_path, 1 << 30)


@pytest.fixture
async def strict() -> AsyncIterator[aiohttp.ClientSession]:
    async with media_session(allow_private=False, slots=4) as opened:
        yield opened


@pytest.fixture
async def lenient() -> AsyncIterator[aiohttp.ClientSession]:
    async with media_session(allow_private=True, slots=4) as opened:
        yield opened


def public(session: aiohttp.ClientSession, *hosts: str) -> Fetcher:
    return Fetcher(session, hosts=hosts or ("*",), max_bytes=1 << 20)


def anywhere(session: aiohttp.ClientSession, *hosts: str) -> Fetcher:
    return Fetcher(session, hosts=hosts or ("*",), max_bytes=1 << 20, allow_private=True)


async def refusal(fetcher: Fetcher, room: SpoolDirectory, source: str) -> ReconcilerError:
    async with room.spool() as spool:
        with pytest.raises(ReconcilerError) as caught:
            await fetcher.fetch(source, spool)
    assert type(caught.value) is Permanent, caught.value
    return caught.value


def leads_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Resolve every name to these addresses; return the names that were looked up."""
    looked_up: list[str] = []

    def answer(host: str, port: int, *args: object, **kwargs: object) -> list[object]:
        looked_up.append(host)
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return looked_up


LITERALS = [
    "127.0.0.1",
    "127.9.9.9",
    "2130706433",
    "127.1",
    "0",
    "0.0.0.0",
    "017700000001",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
    "127.0.0.1.",
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[fec0::1]",
    "[ff02::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
]


@pytest.mark.parametrize("host", LITERALS)
async def test_no_literal_private_address_is_fetched(
    strict: aiohttp.ClientSession, room: SpoolDirectory, host: str
) -> None:
    error = await refusal(public(strict), room, f"http://{host}/latest/meta-data/")
    assert error.code == "address_refused"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "0x7f.1", "0x7f000001"])
async def test_no_name_of_this_machine_is_fetched(
    strict: aiohttp.ClientSession, room: SpoolDirectory, host: str
) -> None:
    async with origin(ok(PNG)) as server:
        error = await refusal(public(strict), room, f"http://{host}:{server.port}/")
    assert error.code == "address_refused"
    assert server.connections == 0, "nothing may reach it, not even a handshake"


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.1.2.3", "192.168.0.9"], ["::1", "127.0.0.1"], ["::ffff:127.0.0.1"]],
)
async def test_a_listed_name_with_a_private_address_is_refused(
    strict: aiohttp.ClientSession,
    room: SpoolDirectory,
    monkeypatch: pytest.MonkeyPatch,
    addresses: list[str],
) -> None:
    async with origin(ok(PNG)) as server:
        looked_up = leads_to(monkeypatch, *addresses)
        source = f"http://tempfile.aiquickdraw.com:{server.port}/r/x.png"
        error = await refusal(public(strict, *LISTED), room, source)
    assert error.code == "address_refused"
    assert looked_up == ["tempfile.aiquickdraw.com"]
    assert server.connections == 0


async def test_the_connection_goes_to_an_address_that_was_checked(
    strict: aiohttp.ClientSession, room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def only_second(address: str) -> bool:
        checked.append(address)
        return address == "127.0.0.2"

    monkeypatch.setattr(addresses, "is_public", only_second)
    leads_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    async with origin(ok(PNG), host="127.0.0.2") as good, room.spool() as spool:
        await public(strict).fetch(f"http://two.example:{good.port}/", spool)
    assert checked == ["127.0.0.1", "127.0.0.2"]
    assert good.connections == 1


@pytest.mark.parametrize("scheme", ["ftp", "file", "data", "javascript", "gopher", "ws", "unix"])
async def test_other_schemes_are_refused(strict: aiohttp.ClientSession, room: SpoolDirectory, scheme: str) -> None:
    error = await refusal(public(strict), room, f"{scheme}://tempfile.aiquickdraw.com/x.png")
    assert error.code == "scheme"


@pytest.mark.parametrize("userinfo", ["user:secret@", "user@", ":@", "@", "kie.ai%40x@"])
async def test_credentials_in_an_address_are_refused(
    strict: aiohttp.ClientSession, room: SpoolDirectory, userinfo: str
) -> None:
    error = await refusal(public(strict), room, f"https://{userinfo}kie.ai/x.png")
    assert error.code == "credentials"
    assert "secret" not in f"{error!r} {error.hint}"


MALFORMED = [
    "",
    "https://",
    "https:///x.png",
    "https:kie.ai",
    "https://kie.ai/a b",
    "https://kie.ai/\r\nHost: evil",
    "https://kie.ai/\x00",
    "https://kie.ai\t.evil.com/",
    "https://evil.com\\@kie.ai/",
    "https://kie.ai:99999/",
    "https://kie.ai:port/",
    "https://kie.ai:0/",
    "https://[::1/",
    "https://[::1]kie.ai/",
    "https://[fe80::1%25eth0]/",
    "https://kie.ai%2eevil.com/",
    "https://a..kie.ai/",
    "https://.kie.ai/",
    f"https://{'a' * 64}.kie.ai/",
    "https://kie.ai/" + "x" * 9000,
    "https://\ud800.kie.ai/",
]


@pytest.mark.parametrize("source", MALFORMED, ids=range(len(MALFORMED)))
async def test_an_ambiguous_address_is_refused(
    strict: aiohttp.ClientSession, room: SpoolDirectory, source: str
) -> None:
    error = await refusal(public(strict, *LISTED), room, source)
    assert error.code in {"address_malformed", "address_refused"}


async def test_no_host_or_a_relative_address_is_refused(strict: aiohttp.ClientSession, room: SpoolDirectory) -> None:
    for source in ("x.png", "/r/x.png", "//kie.ai/x.png"):
        assert (await refusal(public(strict), room, source)).code == "scheme"


@pytest.mark.parametrize(
    "host",
    ["evil.com", "aiquickdraw.com.evil.com", "notaiquickdraw.com", "evil-kie.ai", "ai", "[2606::1]"],
)
async def test_an_unlisted_host_is_named_and_not_contacted(
    strict: aiohttp.ClientSession, room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    looked_up = leads_to(monkeypatch, "127.0.0.1")
    error = await refusal(public(strict, *LISTED), room, f"https://{host}/aiquickdraw.com/x.png")
    assert error.code == "host_unlisted"
    assert host.strip("[]") in str(error)
    assert looked_up == []


async def test_after_a_dead_or_refused_address_another_may_fill_the_same_spool(
    lenient: aiohttp.ClientSession, room: SpoolDirectory
) -> None:
    fetcher = anywhere(lenient, "127.0.0.1")
    async with origin(ok(b"<html>" * 9, status="404 N"), ok(PNG)) as server, room.spool() as spool:
        for dead in (server.url, "https://evil.example/"):
            with pytest.raises(Permanent):
                await fetcher.fetch(dead, spool)
        await fetcher.fetch(server.url, spool)
        assert spool.sha256 == hashlib.sha256(PNG).hexdigest()


@pytest.mark.parametrize("host", ["aiquickdraw.com", "tempfile.AIQUICKDRAW.com", "a.b.kie.ai."])
async def test_a_listed_host_and_its_subdomains_are_fetched(
    lenient: aiohttp.ClientSession, room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    async with origin(ok(PNG)) as server, room.spool() as spool:
        leads_to(monkeypatch, "127.0.0.1")
        mime = await anywhere(lenient, *LISTED).fetch(f"http://{host}:{server.port}/", spool)
    assert mime == "image/png"


def redirect(target: str, status: str = "302 Found") -> bytes:
    return ok(b"moved", f"Location: {target}", status=status)


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_a_redirect_is_followed(lenient: aiohttp.ClientSession, room: SpoolDirectory, status: str) -> None:
    async with origin(redirect("/b/../real%2fname.png?x=1", status), ok(PNG)) as server, room.spool() as spool:
        mime = await anywhere(lenient).fetch(f"{server.url}/a/start", spool)
        assert spool.size == len(PNG), "nothing of the redirect's own body is kept"
    assert mime == "image/png"
    assert server.paths == ["/a/start", "/real%2fname.png?x=1"]


async def test_five_redirects_are_followed_and_no_sixth(lenient: aiohttp.ClientSession, room: SpoolDirectory) -> None:
    async with origin(*[redirect("/next")] * 5, ok(PNG)) as server, room.spool() as spool:
        assert await anywhere(lenient).fetch(server.url, spool) == "image/png"
    async with origin(redirect("/next")) as server:
        error = await refusal(anywhere(lenient), room, server.url)
    assert error.code == "redirects"
    assert len(server.heads) == 6


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://169.254.169.254/latest/", "address_refused"),
        ("http://[::1]:1/", "address_refused"),
        ("http://2130706433/", "address_refused"),
        ("http://localhost:1/", "address_refused"),
        ("https://user:pw@kie.ai/", "credentials"),
        ("file:///etc/passwd", "scheme"),
        ("https://evil.com\\@kie.ai/", "address_malformed"),
        ("", "address_malformed"),
    ],
)
async def test_every_hop_is_checked_like_the_first(
    strict: aiohttp.ClientSession,
    room: SpoolDirectory,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    code: str,
) -> None:
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda a: a == "127.0.0.2" or real(a))
    async with origin(redirect(target), host="127.0.0.2") as server:
        first = "http://start.example"
        names = {"start.example": "127.0.0.2", "localhost": "127.0.0.1"}

        def answer(host: str, port: int, *args: object, **kwargs: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names[host], port))]

        monkeypatch.setattr(socket, "getaddrinfo", answer)
        error = await refusal(public(strict), room, f"{first}:{server.port}/x")
    assert error.code == code
    assert server.connections == 1


async def test_a_redirect_to_an_unlisted_host_is_not_followed(
    lenient: aiohttp.ClientSession, room: SpoolDirectory
) -> None:
    async with origin(redirect("https://evil.example/x.png")) as server:
        error = await refusal(anywhere(lenient, "127.0.0.1"), room, server.url)
    assert error.code == "host_unlisted"


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_an_ipv6_address_is_fetched_like_any_other(lenient: aiohttp.ClientSession, room: SpoolDirectory) -> None:
    async with origin(ok(PNG), host="::1") as server, room.spool() as spool:
        assert await anywhere(lenient).fetch(server.url, spool) == "image/png"


async def test_private_addresses_are_fetched_only_if_configured(
    strict: aiohttp.ClientSession, lenient: aiohttp.ClientSession, room: SpoolDirectory
) -> None:
    async with origin(ok(PNG)) as server:
        assert (await refusal(public(strict), room, server.url)).code == "address_refused"
        async with room.spool() as spool:
            assert await anywhere(lenient).fetch(server.url, spool) == "image/png"


async def test_proxies_of_the_environment_are_not_used(
    lenient: aiohttp.ClientSession, room: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with origin(ok(b"")) as proxy, origin(ok(PNG)) as server, room.spool() as spool:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert await anywhere(lenient).fetch(server.url, spool) == "image/png"
    assert proxy.connections == 0
