"""The client of KIE's API: a task's record, a new address for a result, the credit of an account.

It uses aiohttp directly, because a poll through httpx takes three times the CPU. Which key is used and when is decided
in `worker/`; what a record means is decided in `dialects/`. createTask is in `create_task.py`, which only
`worker/create/create_task.py` may import.
"""

import asyncio
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from reconciler.errors import Gone, Permanent, ReconcilerError, Transient
from reconciler.kie.dialects.envelope import answer_code
from reconciler.kie.dialects.parsing import SUCCESS_CODES, printable_line, too_many_values
from reconciler.logs.redaction import Redaction
from reconciler.net.failures import failure_words, server_name
from reconciler.net.http_clients import CONNECTIONS, retry_after

MAX_BODY = 4 << 20

_MAX_TASK_ID = 8192
_MAX_MESSAGE = 200

BROKEN = (aiohttp.ClientError, OSError, ValueError)
"""The errors of a request whose outcome is unknown; aiohttp raises a plain ValueError for some malformed answers."""

_URL_PATH = "/api/v1/common/download-url"
_CREDIT_PATH = "/api/v1/chat/credit"
_GONE = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class KieReply:
    """An HTTP answer; `body` is the parsed JSON, None if it was not JSON or held too many values.

    `retry_after` is in seconds, None if the answer had none; `size` is the number of the body's bytes.
    """

    status: int
    body: object | None
    retry_after: float | None = None
    size: int = field(default=0, compare=False)


class KieClient:
    """The API at one base address, with one API key for each request.

    `place` is its host and port, `date` is the Date header of the last answer, None if it had none.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        keys: Mapping[str, str],
        *,
        timeout: float = 60.0,
        secrets: Iterable[str] = (),
    ) -> None:
        """`keys` maps hashes to API keys; `timeout` is the seconds that one answer may take in all.

        `secrets` are further texts that `redact` removes besides the keys, because KIE may repeat them.
        """
        self.date: str | None = None
        self._session = session
        self._base = base_url.rstrip("/")
        self.place = server_name(base_url)
        self._bearers = {name: f"Bearer {secret}" for name, secret in keys.items()}
        self._timeout = timeout
        self._redaction = Redaction((*keys.values(), *secrets))
        self._connections_to_close = 0

    def redact(self, message: str, max_length: int) -> str:
        """Return a message of KIE without secrets, cut to `max_length` characters.

        A message may repeat the request, and with it a key or a signed address. Pass it uncut: half a key would not be
        recognised.
        """
        return self._redaction.text(message)[:max_length].rstrip()

    def renew(self) -> None:
        """Close each open connection after its next answer, because one of them may be one answer behind."""
        # aiohttp uses the connection first that has been idle longest, so this reaches every one.
        connector = self._session.connector
        self._connections_to_close = CONNECTIONS if connector is None else max(CONNECTIONS, connector.limit)

    async def record(self, task_id: str, *, path: str, key_hash: str) -> KieReply:
        """Return KIE's answer about this task at this dialect's path; raise Transient if there is none.

        `path` may end in a query, to which the task's id is added.
        """
        return await self._ask("GET", path, key_hash, task_id=task_id)

    async def download_url(self, url: str, *, key_hash: str) -> str:
        """Return a new address for a result; it works for 20 minutes, according to KIE's documentation.

        Raises Gone if KIE no longer has the result, Permanent if the address is not one of KIE's.
        """
        # json= would fail on half surrogate pairs, which JSON can carry and UTF-8 cannot.
        content = json.dumps({"url": url}).encode("ascii")
        reply = await self._ask("POST", _URL_PATH, key_hash, content=content)
        address = self._data(reply, "download_url")
        if not isinstance(address, str) or not address:
            raise Transient("KIE's download-url answer holds no address", code="kie_no_address")
        return address

    async def credit(self, *, key_hash: str) -> float:
        """Return the credits that are left on the account of this key."""
        reply = await self._ask("GET", _CREDIT_PATH, key_hash)
        credit = self._data(reply, "credit")
        if isinstance(credit, bool) or not isinstance(credit, (int, float, str)):
            raise Transient("KIE's credit answer holds no number", code="kie_no_credit")
        try:
            return float(credit)
        except (ValueError, OverflowError):
            raise Transient("KIE's credit answer holds no number", code="kie_no_credit") from None

    async def post(self, path: str, content: bytes, *, key_hash: str) -> KieReply:
        """Send one request once; the errors tell whether it was sent.

        Raises Transient if it was not sent (key_missing, unaskable) or the answer is too large. TimeoutError and the
        errors in BROKEN mean that the outcome is unknown.
        """
        return await self._exchange("POST", path, key_hash, content=content)

    async def _ask(
        self, method: str, path: str, key_hash: str, *, task_id: str | None = None, content: bytes | None = None
    ) -> KieReply:
        try:
            return await self._exchange(method, path, key_hash, task_id=task_id, content=content)
        except TimeoutError:
            raise Transient(f"KIE does not answer in time ({self.place})", code="timeout") from None
        except BROKEN as error:
            # Not the text of the error: it may repeat a header with the key.
            raise Transient(f"KIE is away: {self.place} {failure_words(error)}", code="network") from None

    async def _exchange(
        self, method: str, path: str, key_hash: str, *, task_id: str | None = None, content: bytes | None = None
    ) -> KieReply:
        url, headers = self._url(path, task_id), self._headers(key_hash)
        if content is not None:
            headers["Content-Type"] = "application/json"
        async with asyncio.timeout(self._timeout):
            request = self._session.request(method, url, data=content, headers=headers, allow_redirects=False)
            async with request as response:
                body = await _read_body(response)
        self.date = response.headers.get("Date")
        wait = retry_after(response.headers.get("Retry-After"))
        return KieReply(response.status, _parse_json(body), wait, size=len(body))

    def _data(self, reply: KieReply, endpoint: str) -> object:
        if not isinstance(reply.body, dict):
            message = f"KIE's {endpoint} answer is no JSON (HTTP {reply.status}, {self.place})"
            raise Transient(message, code="not_json")
        code = answer_code(reply.status, reply.body)
        code = reply.status if code is None else code
        if reply.status == 200 and code in SUCCESS_CODES:
            data: object = reply.body.get("data")
            return data
        words = self.redact(printable_line(reply.body.get("msg") or reply.body.get("message")), _MAX_MESSAGE)
        raise _to_error(code, f": {words}" if words else "", reply, endpoint)

    def _url(self, path: str, task_id: str | None) -> URL:
        url = URL(self._base + path)
        if task_id is None:
            return url
        if len(task_id) > _MAX_TASK_ID:
            raise _unaskable()
        try:
            return url.update_query(taskId=task_id)
        except ValueError:
            raise _unaskable() from None

    def _headers(self, key_hash: str) -> dict[str, str]:
        bearer = self._bearers.get(key_hash)
        if bearer is None:
            raise Transient(
                "the API key that created this task is not configured",
                code="key_missing",
                hint="set that key again: KIE shows a task only to the key that created it",
            )
        if not bearer.isprintable():
            raise _unaskable()
        headers = {"Authorization": bearer, "Accept": "application/json"}
        if self._connections_to_close:
            self._connections_to_close -= 1
            headers["Connection"] = "close"
        return headers


def key_hash(secret: str) -> str:
    """Return a name for a key that is no secret: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def _unaskable() -> Transient:
    return Transient("this task id or this key cannot be sent to KIE", code="unaskable")


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    # Decompressed here, because aiohttp would decompress a bomb first and let us count afterwards.
    encoded = response.headers.get("Content-Encoding", "identity").lower() in {"gzip", "deflate"}
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoded else None
    body = bytearray()
    async for raw in response.content.iter_any():
        if decompressor is not None and decompressor.eof:
            # The decompressor would keep every byte after the stream. Left unread, they cost only the connection.
            break
        try:
            body += raw if decompressor is None else decompressor.decompress(raw, MAX_BODY + 1 - len(body))
        except zlib.error:
            return b""
        if len(body) > MAX_BODY:
            raise Transient("KIE's answer is too large", code="too_large")
    return bytes(body)


def _parse_json(body: bytes) -> object | None:
    if too_many_values(body):
        return None
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed


def _to_error(code: int, said: str, reply: KieReply, endpoint: str) -> ReconcilerError:
    message = f"KIE answers {endpoint} with {code}{said}"
    if code == 401:
        return Permanent(message, code="key_rejected", hint="KIE rejects this key: check it")
    if code in _GONE:
        return Gone(message, code=f"kie_{code}")
    if code in {400, 422}:
        return Permanent(message, code=f"{endpoint}_refused")
    code_word = "rate_limited" if code == 429 else "kie_refused"
    return Transient(message, code=code_word, retry_after=reply.retry_after)
