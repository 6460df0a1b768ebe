"""Translates the refusals of Supabase Storage into our errors.

The server's REST routes answer HTTP 400 to nearly everything and put the real status as a string into the body. Its TUS
routes and the gateway in front of it use HTTP statuses and plain text or HTML. `supabase.py` and `tus.py` call this.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import aiohttp
import httpx
from storage3.exceptions import StorageApiError

from reconciler.errors import Permanent, ReconcilerError, Transient
from reconciler.logs.redaction import Redaction
from reconciler.net.http_clients import retry_after
from reconciler.storage.store import MISSING

# Messages are saved and shown, and may repeat the key. Redaction knows both kinds of key by their form.
_REDACTION = Redaction()
_MAX_TEXT = 64 << 10
_KEY_WORDS = ("jws", "jwt", "signature", "claim", "api key", "token")

KEY_HINT = (
    "set SUPABASE_SERVICE_ROLE_KEY to the project's service_role key; a server that does not know the new "
    "sb_secret_ keys needs the older one, a JWT"
)
BUCKET_HINT = (
    "create the bucket, public, in this project, or name another one in RECONCILER_STORAGE_BUCKET; "
    "a key that is not the service_role key sees no bucket at all"
)
POLICY_HINT = "use the service_role key: other keys need INSERT, SELECT and UPDATE policies on storage.objects"


@dataclass(frozen=True, slots=True)
class StorageAnswer:
    """A refusal as it was received.

    `page` is true if it is HTML of a gateway. `foreign` is true if a REST route's answer has not the server's own form.
    """

    status: str
    message: str
    page: bool = False
    retry_after: float | None = None
    foreign: bool = False


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
    return replace(_parse_answer(response.status, text, wait), foreign=rest and '"statusCode"' not in text)


def to_error(answer: StorageAnswer) -> ReconcilerError:
    """Return the error for a refusal; an unknown one is Transient, because it settles nothing."""
    message = " ".join(_REDACTION.text(answer.message).split())[:200]
    status, lower = answer.status, message.lower()
    if status == "413":
        limit = "a gateway in front of storage" if answer.page else "the bucket's or the project's file size limit"
        return Permanent(
            f"storage refuses the size: {message}", code="bucket_refuses_size", hint=f"raise the limit: {limit}"
        )
    if status == "429":
        return Transient("storage is busy", code="storage_busy", retry_after=answer.retry_after)
    if status.startswith("5"):
        return Transient(f"storage failed: {status}", code="storage_5xx", retry_after=answer.retry_after)
    if answer.page:
        return Transient(f"storage answered with a page: {status}", code="not_json", hint="is SUPABASE_URL right?")
    if status in ("401", "403") and any(word in lower for word in _KEY_WORDS):
        return Permanent(f"storage rejects the key: {message}", code="storage_key_rejected", hint=KEY_HINT)
    if status == "403":
        return Permanent(f"storage denies it: {message}", code="storage_denied", hint=POLICY_HINT)
    if status == "404":
        return _not_found(answer, message)
    if status == "415":
        return Permanent(f"the bucket refuses the type: {message}", code="bucket_refuses_type")
    return Transient(f"storage refused: {status} {message}", code="storage_refused")


def _not_found(answer: StorageAnswer, message: str) -> ReconcilerError:
    if "bucket" in message.lower():
        missing = "the bucket that RECONCILER_STORAGE_BUCKET names is missing"
        return Permanent(missing, code="bucket_missing", hint=BUCKET_HINT)
    if answer.foreign:
        # A gateway without a route to storage answers 404 too.
        return Transient(f"a gateway answers: {message}", code="not_json", hint="is SUPABASE_URL right?")
    return Permanent("the object is not there", code=MISSING)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn every error that storage3 raises into ours."""
    try:
        yield
    except StorageApiError as error:
        raise to_error(_from_storage3(error)) from error
    except httpx.HTTPError as error:
        raise _unreachable_error(error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Transient("storage did not answer with JSON", code="not_json") from error


@contextmanager
def translate_connection_errors() -> Iterator[None]:
    """Turn the errors of a request through aiohttp whose outcome is unknown into ours."""
    try:
        yield
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise _unreachable_error(error) from error


def _unreachable_error(error: Exception) -> Transient:
    """Return the error for a request whose outcome is unknown."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return Transient("storage did not answer in time", code="timeout")
    return Transient(f"the connection to storage broke: {type(error).__name__}", code="network")


def _parse_answer(status: int, text: str, wait: float | None) -> StorageAnswer:
    try:
        body = json.loads(text)
    except ValueError:
        return StorageAnswer(str(status), text, page=text.startswith("<"), retry_after=wait)
    if not isinstance(body, dict):
        return StorageAnswer(str(status), text, retry_after=wait)
    real_status = str(body.get("statusCode") or status)
    return StorageAnswer(real_status, str(body.get("message", "")), retry_after=wait)


def _from_storage3(error: StorageApiError) -> StorageAnswer:
    response = _response(error)
    wait = None if response is None else retry_after(response.headers.get("Retry-After"))
    # An int is the HTTP status of a body that storage3 could not read.
    if isinstance(error.status, int) and response is not None:
        return _parse_answer(error.status, response.text.strip(), wait)
    return StorageAnswer(str(error.status), str(error.message), retry_after=wait)


def _response(error: BaseException) -> httpx.Response | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError):
            return cause.response
        cause = cause.__cause__ or cause.__context__
    return None
