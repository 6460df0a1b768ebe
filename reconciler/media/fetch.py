"""Brings one source into a spool: which addresses may be asked, how much may come, of what type.

The source is KIE's word and the body a stranger's: both are judged here. Where the name leads is
checked in the session's sockets (`http.py`), what the bytes are in `sniff.py`. Deliver calls this.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from reconciler.domain.object_keys import AMBIGUOUS, host_listed
from reconciler.errors import Gone, Permanent, ReconcilerError, Transient
from reconciler.media.sniff import sniff
from reconciler.media.spool import HEAD, PIECE, Spool
from reconciler.net.addresses import AddressRefused, is_public
from reconciler.net.http_clients import SILENCE, retry_after

MAX_REDIRECTS = 5
LONGEST_ADDRESS = 8192

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429})
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9a-f:.]*:[0-9a-f:.]*|[0-9.]+", re.IGNORECASE)

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class FetchTimeouts:
    """How long to wait: seconds of silence, seconds for a start, then bytes a second at least."""

    idle: float = SILENCE
    start: float = 60.0
    pace: int = 32 * 1024


class Fetcher:
    """Downloads results; one for the whole process."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        hosts: tuple[str, ...],
        max_bytes: int,
        allow_private: bool = False,
        patience: FetchTimeouts | None = None,
    ) -> None:
        self._session = session
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._allow_private = allow_private
        self._patience = patience or FetchTimeouts()
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=self._patience.idle)

    async def fetch(self, source: str, spool: Spool, *, progress: Progress | None = None) -> str:
        """Fill and seal an empty spool from this address; returns the sniffed type.

        `progress` is called with the bytes that came and all that were promised. Raises Gone when the address is dead,
        Permanent when it or its bytes are refused, else Transient. After Gone, and where the address was refused, the
        spool is still empty and another address may be tried.
        """
        try:
            return await self._follow(source, spool, progress)
        except TimeoutError:
            raise Transient("the source is too slow", code="timeout") from None
        except (aiohttp.ClientError, UnicodeError) as error:
            # The cause is cut off: its text may hold a signed address.
            raise _translated(error) from None

    async def _follow(self, source: str, spool: Spool, progress: Progress | None) -> str:
        url = self._allowed(source)
        async with asyncio.timeout(self._patience.start) as clock:
            for _ in range(MAX_REDIRECTS + 1):
                async with self._session.get(url, allow_redirects=False, timeout=self._timeout) as response:
                    if response.status not in _REDIRECTS:
                        self._judge(response)
                        return await self._receive(response, spool, clock, progress)
                    onward = response.headers.get("Location", "")
                url = self._allowed(onward, url)
        raise Permanent("the source redirects without end", code="redirects")

    def _allowed(self, address: str, base: URL | None = None) -> URL:
        url = _parsed(address, base)
        if url.scheme not in {"http", "https"}:
            raise Permanent("only http and https are fetched", code="scheme")
        if "@" in url.raw_authority:
            raise Permanent("the address holds credentials", code="credentials")
        host = url.raw_host or ""
        if _NUMBER.fullmatch(host):
            if not (self._allow_private or is_public(host)):
                raise _refused()
        elif not _NAME.fullmatch(host):
            raise _malformed()
        literal = f"[{host}]" if ":" in host else host
        if not host_listed(f"https://{literal}/", self._hosts):
            raise Permanent(
                f"results are not fetched from {host}",
                code="host_unlisted",
                hint="add the host to RECONCILER_RESULT_HOSTS if it is KIE's",
            )
        return url

    def _judge(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            raise _unwelcome(response)
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise Permanent("the body is encoded, not the file itself", code="encoding_refused")
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large()

    async def _receive(
        self,
        response: aiohttp.ClientResponse,
        spool: Spool,
        clock: asyncio.Timeout,
        progress: Progress | None,
    ) -> str:
        begun = asyncio.get_running_loop().time()
        promised, mime, due = response.content_length, None, PIECE
        while chunk := await response.content.readany():
            if spool.size + len(chunk) > self._max_bytes:
                raise self._too_large()
            await spool.write(chunk)
            if mime is None and spool.size >= HEAD:
                mime = sniff(spool.head)
            if spool.size >= due:
                due = spool.size + PIECE
                clock.reschedule(begun + self._patience.start + spool.size / self._patience.pace)
            if progress is not None:
                progress(spool.size, promised)
        if not spool.size:
            raise Transient("the source is empty", code="empty")
        mime = mime or sniff(spool.head)
        await spool.seal()
        return mime

    def _too_large(self) -> Permanent:
        return Permanent(
            f"the source has more than {self._max_bytes} bytes",
            code="too_large",
            hint="raise RECONCILER_MAX_ASSET_BYTES",
        )


def _parsed(address: str, base: URL | None) -> URL:
    if not address or len(address) > LONGEST_ADDRESS or AMBIGUOUS.search(address):
        raise _malformed()
    try:
        # What is already plain is sent byte for byte: signatures may cover the exact path.
        url = URL(address, encoded=address.isascii())
        url = base.join(url) if base is not None else url
        port = url.port  # only read, and only then found to be none, when it is asked for
    except ValueError:
        raise _malformed() from None
    if port == 0:
        raise _malformed()
    return url


def _unwelcome(response: aiohttp.ClientResponse) -> ReconcilerError:
    status = response.status
    if status >= 500 or status in _BUSY:
        return Transient(
            f"the source answers {status}",
            code="http_5xx" if status >= 500 else f"http_{status}",
            retry_after=retry_after(response.headers.get("Retry-After")),
        )
    if status >= 400:
        code = f"http_{status}" if status in {403, 404, 410} else "http_4xx"
        return Gone(f"the source answers {status}", code=code, hint="a new address is asked for")
    return Transient(f"the source answers {status}", code=f"http_{status // 100}xx")


def _translated(error: aiohttp.ClientError | UnicodeError) -> ReconcilerError:
    match error:
        case aiohttp.ClientConnectorError(os_error=AddressRefused()):
            return _refused()
        case aiohttp.InvalidURL() | UnicodeError():
            return _malformed()
        case aiohttp.ClientPayloadError():
            return Transient("the body ended early", code="short")
        case aiohttp.ClientSSLError():
            return Transient("no secure connection to the source", code="tls")
        case aiohttp.ClientResponseError():
            return Transient("the source does not speak proper HTTP", code="bad_answer")
        case _:
            return Transient(f"the source is away ({type(error).__name__})", code="network")


def _refused() -> Permanent:
    return Permanent(
        "the source's address is not public",
        code="address_refused",
        hint="RECONCILER_ALLOW_PRIVATE_HOSTS permits it, for tests on one machine",
    )


def _malformed() -> Permanent:
    return Permanent("the source is no usable address", code="address_malformed")
