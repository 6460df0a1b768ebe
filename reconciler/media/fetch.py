"""Downloads one result into a spool: checks the address, the size and the type.

The address comes from KIE, the body from a foreign host. The resolved IP address is checked in the session's sockets
(`net/http_clients.py`), the bytes in `sniff.py`. Deliver calls this.
"""

import asyncio
import mimetypes
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from reconciler.domain.object_keys import AMBIGUOUS_CHARACTERS, TYPES, MediaType, host_listed
from reconciler.errors import Gone, Permanent, ReconcilerError, Transient
from reconciler.media.sniff import sniff
from reconciler.media.spool import HEAD, PIECE, Spool
from reconciler.net.addresses import AddressRefused, is_public
from reconciler.net.http_clients import SILENCE, retry_after

MAX_REDIRECTS = 5
MAX_ADDRESS = 8192

# Only Python's own table: the files of this machine are not read.
_OTHER_TYPES = mimetypes.MimeTypes(filenames=())

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY_STATUSES = frozenset({408, 425, 429})
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)
_IP_ADDRESS = re.compile(r"[0-9a-f:.]*:[0-9a-f:.]*|[0-9.]+", re.IGNORECASE)

Progress = Callable[[int, int | None], None]
Recognise = Callable[[Spool, bool], str]
"""Returns the type of what a spool holds so far; True says that it holds the whole body."""


@dataclass(frozen=True, slots=True)
class FetchTimeouts:
    """Seconds of silence, seconds for the start, and the least bytes per second after that."""

    idle: float = SILENCE
    start: float = 60.0
    pace: int = 32 * 1024


@dataclass(eq=False)
class Fetcher:
    """Downloads results; the process has one. `types` are those that are stored."""

    session: aiohttp.ClientSession
    _: KW_ONLY
    hosts: tuple[str, ...]
    max_bytes: int
    allow_private: bool = False
    timeouts: FetchTimeouts = FetchTimeouts()
    types: Mapping[str, MediaType] = field(default_factory=lambda: TYPES)

    def announced_by(self, address: str) -> str | None:
        """Return the type that the extension of an address announces, None if it announces none."""
        try:
            ext = urlsplit(address).path.rpartition(".")[2].lower()
        except ValueError:
            return None
        stored = next((mime for mime, found in self.types.items() if found.ext == ext), None)
        return stored or _OTHER_TYPES.types_map[True].get(f".{ext}")

    async def fetch(
        self,
        source: str,
        spool: Spool,
        *,
        announced: str | None = None,
        progress: Progress | None = None,
        answered: Callable[[], None] | None = None,
    ) -> str:
        """Fill and seal an empty spool from this address; return the sniffed type.

        `announced` is the MIME type that the provider names for the result; where it names none that is stored, the
        extension of `source` counts. `progress` is called with the bytes received and the expected length, `answered`
        when the source has answered with anything but a redirect. Raises Gone if the address is dead, Permanent if the
        address or its bytes are refused, else Transient. After Gone, or a refused address, the spool is still empty, so
        another address may be tried.
        """
        named = announced if announced in self.types else self.announced_by(source) or announced
        try:
            return await self._follow(source, spool, partial(self._recognise, named), progress, answered)
        except TimeoutError:
            raise Transient("the source is too slow", code="timeout") from None
        except (aiohttp.ClientError, UnicodeError) as error:
            # `from None`, because the text of the cause may hold a signed address.
            raise _translate(error) from None

    def _recognise(self, announced: str | None, spool: Spool, whole: bool) -> str:
        return sniff(spool.head, announced=announced, whole=whole, types=self.types)

    async def _follow(
        self,
        source: str,
        spool: Spool,
        recognise: Recognise,
        progress: Progress | None,
        answered: Callable[[], None] | None,
    ) -> str:
        url = self._checked(source)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=self.timeouts.idle)
        async with asyncio.timeout(self.timeouts.start) as deadline:
            for _ in range(MAX_REDIRECTS + 1):
                async with self.session.get(url, allow_redirects=False, timeout=timeout) as response:
                    if response.status not in _REDIRECTS:
                        if answered is not None:
                            answered()
                        self._check_headers(response)
                        return await self._receive(response, spool, recognise, deadline, progress)
                    location = response.headers.get("Location", "")
                url = self._checked(location, url)
        raise Permanent("the source redirects without end", code="redirects")

    def _checked(self, address: str, base: URL | None = None) -> URL:
        url = _parse_address(address, base)
        if url.scheme not in {"http", "https"}:
            raise Permanent("only http and https are fetched", code="scheme")
        if "@" in url.raw_authority:
            raise Permanent("the address holds credentials", code="credentials")
        host = url.raw_host or ""
        if _IP_ADDRESS.fullmatch(host):
            if not (self.allow_private or is_public(host)):
                raise _address_refused()
        elif not _HOST_NAME.fullmatch(host):
            raise _address_malformed()
        literal = f"[{host}]" if ":" in host else host
        if not host_listed(f"https://{literal}/", self.hosts):
            raise Permanent(
                f"results are not fetched from {host}",
                code="host_unlisted",
                hint="add the host to RECONCILER_RESULT_HOSTS if it is KIE's",
            )
        return url

    def _check_headers(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            raise _status_error(response)
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise Permanent("the body is compressed, not the file itself", code="encoding_refused")
        if (response.content_length or 0) > self.max_bytes:
            raise self._too_large()

    async def _receive(
        self,
        response: aiohttp.ClientResponse,
        spool: Spool,
        recognise: Recognise,
        deadline: asyncio.Timeout,
        progress: Progress | None,
    ) -> str:
        started = asyncio.get_running_loop().time()
        expected, mime, next_check = response.content_length, None, PIECE
        while chunk := await response.content.readany():
            if spool.size + len(chunk) > self.max_bytes:
                raise self._too_large()
            await spool.write(chunk)
            if mime is None and spool.size >= HEAD:
                mime = recognise(spool, False)
            if spool.size >= next_check:
                next_check = spool.size + PIECE
                deadline.reschedule(started + self.timeouts.start + spool.size / self.timeouts.pace)
            if progress is not None:
                progress(spool.size, expected)
        if not spool.size:
            raise Transient("the source is empty", code="empty")
        mime = mime or recognise(spool, True)
        await spool.seal()
        return mime

    def _too_large(self) -> Permanent:
        return Permanent(
            f"the source has more than {self.max_bytes} bytes",
            code="too_large",
            hint="raise RECONCILER_MAX_ASSET_BYTES",
        )


def _parse_address(address: str, base: URL | None) -> URL:
    if not address or len(address) > MAX_ADDRESS or AMBIGUOUS_CHARACTERS.search(address):
        raise _address_malformed()
    try:
        # An ASCII address is sent byte for byte: a signature may cover the exact path.
        url = URL(address, encoded=address.isascii())
        url = base.join(url) if base is not None else url
        port = url.port  # yarl checks the port only when it is read
    except ValueError:
        raise _address_malformed() from None
    if port == 0:
        raise _address_malformed()
    return url


def _status_error(response: aiohttp.ClientResponse) -> ReconcilerError:
    status = response.status
    if status >= 500 or status in _BUSY_STATUSES:
        return Transient(
            f"the source answers {status}",
            code="http_5xx" if status >= 500 else f"http_{status}",
            retry_after=retry_after(response.headers.get("Retry-After")),
        )
    if status >= 400:
        code = f"http_{status}" if status in {403, 404, 410} else "http_4xx"
        return Gone(f"the source answers {status}", code=code, hint="KIE is asked for a new address")
    return Transient(f"the source answers {status}", code=f"http_{status // 100}xx")


def _translate(error: aiohttp.ClientError | UnicodeError) -> ReconcilerError:
    match error:
        case aiohttp.ClientConnectorError(os_error=AddressRefused()):
            return _address_refused()
        case aiohttp.InvalidURL() | UnicodeError():
            return _address_malformed()
        case aiohttp.ClientPayloadError():
            return Transient("the body ended early", code="short")
        case aiohttp.ClientSSLError():
            return Transient("no secure connection to the source", code="tls")
        case aiohttp.ClientResponseError():
            return Transient("the source does not speak valid HTTP", code="bad_answer")
        case _:
            return Transient(f"the source is away ({type(error).__name__})", code="network")


def _address_refused() -> Permanent:
    return Permanent(
        "the source's address is not public",
        code="address_refused",
        hint="RECONCILER_ALLOW_PRIVATE_HOSTS allows it, for tests on one machine",
    )


def _address_malformed() -> Permanent:
    return Permanent("the source is not a valid address", code="address_malformed")
