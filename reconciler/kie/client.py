"""KIE's API as this daemon needs it: a task's record, a fresh address for a result, the credit.

Over aiohttp by itself: most tasks are asked about again and again, and under httpx each of these questions took three
times the CPU.

Which key is used and when is the engine's affair, what a record means is a dialect's
(`providers/`). createTask is not here but in `creating.py`, which only `worker/create/create_task.py` may reach.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from reconciler.errors import Gone, Permanent, ReconcilerError, Transient
from reconciler.kie.dialects.parsing import SUCCESS_CODES
from reconciler.logs.redaction import Redaction
from reconciler.net.http_clients import CONNECTIONS, retry_after

MAX_BODY = 4 << 20

_MAX_TASK_ID = 8192

BROKEN = (aiohttp.ClientError, OSError, ValueError)
"""What an exchange raises that did not end: the client says nonsense in some answers by a plain ValueError."""

_URL_PATH = "/api/v1/common/download-url"
_CREDIT_PATH = "/api/v1/chat/credit"
_GONE = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class KieReply:
    """An HTTP answer, not judged: `body` is the JSON, None when it is none.

    `retry_after` is in seconds, None where nothing was said.
    """

    status: int
    body: object | None
    retry_after: float | None = None


class KieClient:
    """The API behind one base address, asked with one key of the ring at a time.

    `date` is the Date header of the last answer, None where it had none.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        keys: Mapping[str, str],
        *,
        patience: float = 60.0,
        secrets: Iterable[str] = (),
    ) -> None:
        """Keys are secrets by their hash; `patience` is the seconds one answer may take in all.

        `secrets` are what KIE may have been told besides, and what `discreet` takes out together with the keys.
        """
        self.date: str | None = None
        self._session = session
        self._base = base_url.rstrip("/")
        self._bearers = {name: f"Bearer {secret}" for name, secret in keys.items()}
        self._patience = patience
        self._redaction = Redaction((*keys.values(), *secrets))
        self._ending = 0

    def discreet(self, said: str, most: int) -> str:
        """What KIE said, fit to be kept and shown: it may repeat the request, and with it a key or a signed address.

        At most `most` letters of it: it must not have been cut before, since half a key is not known as one.
        """
        return self._redaction.text(said)[:most].rstrip()

    def renew(self) -> None:
        """Let each open connection end with its next answer: one of them is an answer behind, and would stay so."""
        # The client gives out first what has waited longest, so that none is passed over.
        self._ending = CONNECTIONS

    async def record(self, task_id: str, *, path: str, key_hash: str) -> KieReply:
        """What KIE says about this task at this dialect's path."""
        return await self._ask("GET", path, key_hash, task_id=task_id)

    async def download_url(self, url: str, *, key_hash: str) -> str:
        """A fresh address for a result, good for 20 minutes by KIE's documentation.

        Gone when KIE no longer has it, Permanent when the address is not one of KIE's.
        """
        # json= would fail on what JSON can carry and UTF-8 cannot.
        content = json.dumps({"url": url}).encode("ascii")
        reply = await self._ask("POST", _URL_PATH, key_hash, content=content)
        minted = _data(reply, "download_url")
        if not isinstance(minted, str) or not minted:
            raise Transient("KIE minted no address", code="kie_no_address")
        return minted

    async def credit(self, *, key_hash: str) -> float:
        """What is left on the account of this key, in KIE's credits."""
        reply = await self._ask("GET", _CREDIT_PATH, key_hash)
        left = _data(reply, "credit")
        if isinstance(left, bool) or not isinstance(left, (int, float, str)):
            raise Transient("KIE told no credit", code="kie_no_credit")
        try:
            return float(left)
        except (ValueError, OverflowError):
            raise Transient("KIE told no credit", code="kie_no_credit") from None

    async def post(self, path: str, content: bytes, *, key_hash: str) -> KieReply:
        """Send one request once, for a caller who must tell what was not sent from what was not heard.

        Raises Transient where nothing was sent (key_missing, unaskable) or the answer is too large; TimeoutError and
        what is BROKEN come through.
        """
        return await self._exchange("POST", path, key_hash, content=content)

    async def _ask(
        self, method: str, path: str, key_hash: str, *, task_id: str | None = None, content: bytes | None = None
    ) -> KieReply:
        try:
            return await self._exchange(method, path, key_hash, task_id=task_id, content=content)
        except TimeoutError:
            raise Transient("KIE does not answer in time", code="timeout") from None
        except BROKEN as error:
            # Only the kind: an error's text may repeat the header it chokes on.
            raise Transient(f"KIE is away ({type(error).__name__})", code="network") from None

    async def _exchange(
        self, method: str, path: str, key_hash: str, *, task_id: str | None = None, content: bytes | None = None
    ) -> KieReply:
        url, headers = self._url(path, task_id), self._headers(key_hash)
        if content is not None:
            headers["Content-Type"] = "application/json"
        async with asyncio.timeout(self._patience):
            asked = self._session.request(method, url, data=content, headers=headers, allow_redirects=False)
            async with asked as response:
                body = await _read_body(response)
        self.date = response.headers.get("Date")
        return KieReply(response.status, _parse_json(body), retry_after(response.headers.get("Retry-After")))

    def _url(self, path: str, task_id: str | None) -> URL:
        url = URL(self._base + path)
        if task_id is None:
            return url
        if len(task_id) > _MAX_TASK_ID:
            raise _unaskable()
        try:
            return url.with_query(taskId=task_id)
        except ValueError:
            raise _unaskable() from None

    def _headers(self, key_hash: str) -> dict[str, str]:
        bearer = self._bearers.get(key_hash)
        if bearer is None:
            raise Transient(
                "the key this task was made with is not configured",
                code="key_missing",
                hint="put the key back, KIE knows its tasks by it",
            )
        if not bearer.isprintable():
            raise _unaskable()
        headers = {"Authorization": bearer, "Accept": "application/json"}
        if self._ending:
            self._ending -= 1
            headers["Connection"] = "close"
        return headers


def key_hash(secret: str) -> str:
    """The name of a key that may be written down: the first 16 hex digits of its sha256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def _unaskable() -> Transient:
    return Transient("KIE cannot be asked with this id or this key", code="unaskable")


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    # Unpacked here, not by the client: it would unpack a bomb first and let us count afterwards.
    encoded = response.headers.get("Content-Encoding", "identity").lower() in {"gzip", "deflate"}
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoded else None
    body = bytearray()
    async for raw in response.content.iter_any():
        if unpack is not None and unpack.eof:
            # The unpacker would keep all that follows the stream. Left unread, it costs the connection.
            break
        try:
            body += raw if unpack is None else unpack.decompress(raw, MAX_BODY + 1 - len(body))
        except zlib.error:
            return b""
        if len(body) > MAX_BODY:
            raise Transient("KIE's answer is too large", code="too_large")
    return bytes(body)


def _parse_json(body: bytes) -> object | None:
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found


def _data(reply: KieReply, what: str) -> object:
    if not isinstance(reply.body, dict):
        raise Transient(f"KIE's {what} answer is no JSON", code="not_json")
    code = _answer_code(reply)
    if reply.status == 200 and code in SUCCESS_CODES:
        found: object = reply.body.get("data")
        return found
    raise _to_error(code, reply, what)


def _answer_code(reply: KieReply) -> int:
    # The body's word counts; the status only where the body has none or is the milder of the two.
    said = reply.body.get("code") if isinstance(reply.body, dict) else None
    if isinstance(said, str) and said.isascii() and said.isdigit():
        said = int(said[:6])
    if isinstance(said, bool) or not isinstance(said, int):
        return reply.status
    return reply.status if said in SUCCESS_CODES and reply.status >= 400 else said


def _to_error(code: int, reply: KieReply, what: str) -> ReconcilerError:
    said = f"KIE answers {what} with {code}"
    if code == 401:
        return Permanent(said, code="key_rejected", hint="KIE rejects this key: check it")
    if code in _GONE:
        return Gone(said, code=f"kie_{code}")
    if code in {400, 422}:
        return Permanent(said, code=f"{what}_refused")
    code_word = "rate_limited" if code == 429 else "kie_refused"
    return Transient(said, code=code_word, retry_after=reply.retry_after)
