"""The clients for outgoing HTTP: timeouts, connection limits, User-Agent, Retry-After.

httpx carries short JSON requests, aiohttp carries bytes and the requests to KIE. httpx runs on aiohttp's transport,
which takes a fraction of the CPU. `kie`, `media`, `storage` and `webhooks` decide what to request and how to judge the
answer; `addresses.py` decides which addresses a download may connect to.
"""

import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from reconciler import __version__
from reconciler.net.addresses import any_socket, public_socket

USER_AGENT = f"kie-reconciler/{__version__}"
_LONGEST_RETRY = 86_400.0

CONNECTIONS = 32
"""The most connections that a session for KIE or for short answers opens at once, where its caller names no other."""

_CONNECT_SECONDS = 10.0
SILENCE = 15.0
"""Seconds without a byte after which a connection counts as dead."""

_HEADER_BYTES = 8190
_HEADERS = 100


def kie_session(
    *, timeout: float = SILENCE, keep_alive: bool = True, connections: int = CONNECTIONS
) -> aiohttp.ClientSession:
    """Return a session for requests to KIE; `timeout` bounds the seconds of silence, not of the whole request.

    It opens at most `connections` at once: more requests wait inside for one, which looks like KIE's silence.

    Without `keep_alive` every request opens its own connection at once and without a limit. A connection that the
    server has just closed then cannot swallow a request.
    """
    return _session(_limited(keep_alive=keep_alive, connections=connections), {}, timeout)


def json_client(*, timeout: float = SILENCE) -> httpx.AsyncClient:
    """Return a client for short JSON answers; `timeout` bounds the seconds of silence, not of the whole request."""
    # httpx's own transport takes three times the CPU for a small request. aiohttp's connector does the TLS, and the
    # transport never uses its own context. Loading certificates into that context takes 20 ms, so it stays empty and
    # trusts no certificate.
    unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    transport = _Transport(verify=unused, client=lambda: _session(_limited(), {}))
    return httpx.AsyncClient(
        transport=transport,
        cookies=_NoCookies(),
        timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        trust_env=False,
        follow_redirects=False,
    )


class _NoCookies(CookieJar):
    """Keeps no cookie and sends none: we need no gateway's cookie, and parsing them costs CPU at every answer."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Keep none."""

    def add_cookie_header(self, request: object) -> None:
        """Send none."""


class _Transport(AiohttpTransport):
    """Corrects the library's transport, which reports every failed connection as a timeout and leaks foreign errors."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except httpx.ConnectTimeout as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
            raise httpx.ConnectError(str(error)) from error.__cause__
        except ValueError:
            # Without the cause: its text repeats the invalid header, which may be a key.
            raise httpx.LocalProtocolError("a header cannot be sent") from None
        except aiohttp.ClientError as error:
            raise httpx.RemoteProtocolError(f"the answer is not HTTP: {type(error).__name__}") from error


def media_session(*, allow_private: bool, slots: int) -> aiohttp.ClientSession:
    """Return a session for downloads from result hosts; it reaches public addresses only unless `allow_private`."""
    connector = aiohttp.TCPConnector(limit=slots, socket_factory=any_socket if allow_private else public_socket)
    # Some result hosts refuse requests that do not come from KIE's own pages.
    return _session(connector, {"Referer": "https://kie.ai/"})


def storage_session(*, slots: int) -> aiohttp.ClientSession:
    """Return a session for our own storage, which may have any address."""
    return _session(aiohttp.TCPConnector(limit=slots), {})


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header (seconds or an HTTP date) asks to wait, None where it states none.

    The result lies between zero and one day. `now` defaults to the present time.
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


def _limited(*, keep_alive: bool = True, connections: int = CONNECTIONS) -> aiohttp.TCPConnector:
    if keep_alive:
        return aiohttp.TCPConnector(limit=connections, keepalive_timeout=30)
    # A request that the rate limit has granted must go out at once: in the connector's queue its grant would expire,
    # and a caller cancelled there could not know that nothing was sent. The rate limit bounds the connections.
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
