"""Translates the refusals of Supabase Storage into our errors.

The server's REST routes answer HTTP 400 to nearly everything and put the real status as a string into the body. Its TUS
routes and the gateway in front of it use HTTP statuses and plain text or HTML. `supabase.py` and `tus.py` call this.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import aiohttp
import httpx
from storage3.exceptions import StorageApiError

from reconciler.errors import Permanent, ReconcilerError, Transient
from reconciler.logs.redaction import Redaction
from reconciler.net.failures import failure_words, server_name
from reconciler.net.http_clients import retry_after
from reconciler.storage.store import MISSING

# Messages are saved and shown, and may repeat the key. Redaction knows both kinds of key by their form.
_REDACTION = Redaction()
_MAX_TEXT = 64 << 10
_LONGEST = 200
_LONGEST_CODE = 40
_TITLE = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_KEY_WORDS = ("jws", "jwt", "signature", "claim", "api key", "token")

KEY_HINT = (
    "set SUPABASE_SERVICE_ROLE_KEY to the project's service_role key; a server that does not know the new "
    "sb_secret_ keys needs the older one, a JWT"
)
BUCKET_HINT = (
    "create the bucket, public, in this project, or name another one in RECONCILER_STORAGE_BUCKET; "
    "a key that is not the service_role key sees no bucket at all"
)
_NETWORK_HINT = "check SUPABASE_URL and this machine's network; a paused project has no name"
POLICY_HINT = "use the service_role key: other keys need INSERT, SELECT and UPDATE policies on storage.objects"


@dataclass(frozen=True, slots=True)
class StorageAnswer:
    """A refusal as it was received.

    `page` is true if it is HTML of a gateway; `message` is its title then. `foreign` is true if a REST route's answer
    has not the server's own form. `error_code` is storage's own word for the error, `place` the server's host and port.
    """

    status: str
    message: str
    page: bool = False
    retry_after: float | None = None
    foreign: bool = False
    error_code: str = ""
    place: str = ""

    @property
    def said(self) -> str:
        """What the server said, without secrets, with status, code and place."""
        words = " ".join(_REDACTION.text(self.message).split())[:_LONGEST]
        code = " ".join(_REDACTION.text(self.error_code).split())[:_LONGEST_CODE]
        source = ", ".join(part for part in (f"HTTP {self.status} {code}".rstrip(), self.place) if part)
        return f"{words} ({source})".lstrip()


async def read_text(response: aiohttp.ClientResponse) -> str:
    """Return the text of a response, about 64 KiB at most."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_TEXT:
            break
    return body.decode(errors="replace").strip()


async def read_refusal(response: aiohttp.ClientResponse, *, rest: bool = False) -> StorageAnswer:
    """Return the refusal in a response; with `rest` the server itself would send JSON with a statusCode."""
    wait = retry_after(response.headers.get("Retry-After"))
    text = await read_text(response)
    answer = _parse_answer(response.status, text, wait)
    return replace(answer, foreign=rest and '"statusCode"' not in text, place=server_name(str(response.url)))


def to_error(answer: StorageAnswer) -> ReconcilerError:
    """Return the error for a refusal; an unknown one is Transient, because it settles nothing."""
    status, said, lower = answer.status, answer.said, answer.message.lower()
    if status == "413":
        limit = "a gateway in front of storage" if answer.page else "the bucket's or the project's file size limit"
        return Permanent(
            f"storage refuses the size: {said}", code="bucket_refuses_size", hint=f"raise the limit: {limit}"
        )
    if status == "429":
        return Transient(f"storage is busy: {said}", code="storage_busy", retry_after=answer.retry_after)
    if status.startswith("5"):
        return Transient(f"storage failed: {said}", code="storage_5xx", retry_after=answer.retry_after)
    if answer.page:
        return Transient(f"storage answered with a page: {said}", code="not_json", hint="is SUPABASE_URL right?")
    if status in ("401", "403") and any(word in lower for word in _KEY_WORDS):
        return Permanent(f"storage rejects the key: {said}", code="storage_key_rejected", hint=KEY_HINT)
    if status == "403":
        return Permanent(f"storage denies it: {said}", code="storage_denied", hint=POLICY_HINT)
    if status == "404":
        return _not_found(answer)
    if status == "415":
        return Permanent(f"the bucket refuses the type: {said}", code="bucket_refuses_type")
    return Transient(f"storage refused: {said}", code="storage_refused")


def _not_found(answer: StorageAnswer) -> ReconcilerError:
    if "bucket" in answer.message.lower():
        missing = f"the bucket that RECONCILER_STORAGE_BUCKET names is missing: {answer.said}"
        return Permanent(missing, code="bucket_missing", hint=BUCKET_HINT)
    if answer.foreign:
        # A gateway without a route to storage answers 404 too.
        return Transient(f"a gateway answers: {answer.said}", code="not_json", hint="is SUPABASE_URL right?")
    return Permanent("the object is not there", code=MISSING)


@contextmanager
def translate_errors(place: str) -> Iterator[None]:
    """Turn every error that storage3 raises into ours, which names the server's `place`."""
    try:
        yield
    except StorageApiError as error:
        raise to_error(replace(_from_storage3(error), place=place)) from error
    except httpx.HTTPError as error:
        raise _unreachable_error(error, place) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Transient(f"storage did not answer with JSON ({place})", code="not_json") from error


@contextmanager
def translate_connection_errors(place: str) -> Iterator[None]:
    """Turn the errors of a request through aiohttp whose outcome is unknown into ours, which names the `place`."""
    try:
        yield
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise _unreachable_error(error, place) from error


def _unreachable_error(error: Exception, place: str) -> Transient:
    """Return the error for a request whose outcome is unknown."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return Transient(f"storage is away: {place} did not answer in time", code="timeout")
    return Transient(f"storage is away: {place} {failure_words(error)}", code="network", hint=_NETWORK_HINT)


def _parse_answer(status: int, text: str, wait: float | None) -> StorageAnswer:
    try:
        body = json.loads(text)
    except ValueError:
        page = text.startswith("<")
        return StorageAnswer(str(status), _title(text) if page else text, page=page, retry_after=wait)
    if not isinstance(body, dict):
        return StorageAnswer(str(status), text, retry_after=wait)
    real_status = str(body.get("statusCode") or status)
    code = str(body.get("code") or body.get("error") or "")
    return StorageAnswer(real_status, str(body.get("message", "")), retry_after=wait, error_code=code)


def _title(page: str) -> str:
    """Return the title of a gateway's page, its beginning if it has none."""
    found = _TITLE.search(page)
    return found[1] if found and found[1].strip() else re.sub(r"<[^>]*>", " ", page)


def _from_storage3(error: StorageApiError) -> StorageAnswer:
    response = _response(error)
    wait = None if response is None else retry_after(response.headers.get("Retry-After"))
    # An int is the HTTP status of a body that storage3 could not read.
    if isinstance(error.status, int) and response is not None:
        return _parse_answer(error.status, response.text.strip(), wait)
    return StorageAnswer(str(error.status), str(error.message), retry_after=wait, error_code=str(error.code))


def _response(error: BaseException) -> httpx.Response | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError):
            return cause.response
        cause = cause.__cause__ or cause.__context__
    return None
