"""Every HTTP client of the house: timeouts, limits, User-Agent, and which addresses may be reached.

httpx says what is said in JSON, aiohttp moves bytes, asks KIE, and carries httpx: it does so for a fraction of the CPU.
What is asked and how an answer is judged lives in the edge that uses the client.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar

import aiohttp
import httpx
from aiohappyeyeballs import AddrInfoType
from httpx_aiohttp import AiohttpTransport

from reconciler import __version__

USER_AGENT = f"kie-reconciler/{__version__}"
_LONGEST_RETRY = 86_400.0

CONNECTIONS = 32
"""So many a session has at once, to KIE or with short answers."""

_CONNECT_SECONDS = 10.0
SILENCE = 15.0
"""Seconds without a byte after which a connection counts as dead."""

_HEADER_BYTES = 8190
_HEADERS = 100

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Metadata addresses that look public: Oracle's lies in a block which Python 3.11 calls global, Azure's is one.
_METADATA = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("168.63.129.16/32"))


class AddressRefused(OSError):
    """The name led to an address that is not public; raised before anything is sent there."""

    def __init__(self) -> None:
        # One text for every address: the connector keeps the type only when all texts are equal.
        super().__init__(errno.EACCES, "the address is not public")


def kie_session(*, timeout: float = SILENCE, lasting: bool = True) -> aiohttp.ClientSession:
    """A session for KIE's answers; `timeout` is in seconds of silence, not in all.

    Unless `lasting` every request has a connection of its own, at once and however many there are: one that the server
    has just closed cannot swallow it.
    """
    return _session(_few(lasting=lasting), {}, timeout)


def json_client(*, timeout: float = SILENCE) -> httpx.AsyncClient:
    """A client for short JSON answers; `timeout` is in seconds of silence, not in all."""
    # httpx's own transport takes three times the CPU for a small request; above it nothing changes. TLS is the
    # connector's: the transport never uses its own context, which takes 20 ms to fill. An empty one trusts nobody.
    unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    transport = _Transport(verify=unused, client=lambda: _session(_few(), {}))
    return httpx.AsyncClient(
        transport=transport,
        cookies=_NoCookies(),
        timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        trust_env=False,
        follow_redirects=False,
    )


class _NoCookies(CookieJar):
    """Keeps no cookie and sends none: what a gateway sets is nothing to us, and reading it costs at every answer."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Keep none."""

    def add_cookie_header(self, request: object) -> None:
        """Send none."""


class _Transport(AiohttpTransport):
    """The library's transport, which calls every broken connection a timeout, and lets nonsense through as it is."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except httpx.ConnectTimeout as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
            raise httpx.ConnectError(str(error)) from error.__cause__
        except ValueError:
            # Without its cause: that repeats the header it chokes on, which may be a key.
            raise httpx.LocalProtocolError("a header cannot be sent") from None
        except aiohttp.ClientError as error:
            raise httpx.RemoteProtocolError(f"the answer is not HTTP: {type(error).__name__}") from error


def media_session(*, allow_private: bool, slots: int) -> aiohttp.ClientSession:
    """A session for bytes from strangers: public addresses only unless `allow_private`."""
    connector = aiohttp.TCPConnector(limit=slots, socket_factory=_socket if allow_private else _public_socket)
    # Some result hosts turn away whoever does not come from KIE's own pages.
    return _session(connector, {"Referer": "https://kie.ai/"})


def storage_session(*, slots: int) -> aiohttp.ClientSession:
    """A session for the bytes of our own storage, wherever it is."""
    return _session(aiohttp.TCPConnector(limit=slots), {})


def is_public(address: str) -> bool:
    """Whether an IP address as text is one of the open internet; False for what is no address.

    IPv4 addresses wrapped in IPv6 (mapped, NAT64, 6to4) are judged by what is inside.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.is_site_local:
            return False
        ip = _unwrapped(ip)
    inside = ip.is_private or ip.is_multicast or ip.is_reserved or any(ip in block for block in _METADATA)
    return ip.is_global and not inside


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or an HTTP date), None where it says none.

    Never negative and never more than a day. `now` is the present time unless given.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:10]), _LONGEST_RETRY))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    wait = (at - (now or datetime.now(UTC))).total_seconds()
    return min(max(wait, 0.0), _LONGEST_RETRY)


def _few(*, lasting: bool = True) -> aiohttp.TCPConnector:
    if lasting:
        return aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30)
    # What has been granted must go out: in the connector's queue its grant runs out, and whoever is cut there cannot
    # tell that nothing was sent. The rate bounds how many there are.
    return aiohttp.TCPConnector(limit=0, force_close=True)


def _session(
    connector: aiohttp.TCPConnector, headers: dict[str, str], silence: float = SILENCE
) -> aiohttp.ClientSession:
    connect = min(silence, _CONNECT_SECONDS)
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=silence),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
        max_headers=_HEADERS,
    )


def _unwrapped(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip


def _socket(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    return socket.socket(family=family, type=kind, proto=protocol)


def _public_socket(address: AddrInfoType) -> socket.socket:
    # The last place before connect: whatever the name said, and whenever, this is where it leads.
    if not is_public(str(address[4][0])):
        raise AddressRefused
    return _socket(address)
