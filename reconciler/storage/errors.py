"""What Supabase Storage says when it says no, in our words.

The server's REST routes answer HTTP 400 to nearly everything and put the real status as a string into the body; its TUS
routes and the gateway in front of it use HTTP statuses and plain text or a page. Called by `supabase.py` and `tus.py`.
"""

from __future__ import annotations

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

# What it says is kept and shown, and it may repeat the key; keys of either kind are known by their shape.
_REDACTION = Redaction()
_MOST = 64 << 10
_KEY_WORDS = ("jws", "jwt", "signature", "claim", "api key", "token")

KEY_HINT = (
    "set SUPABASE_SERVICE_ROLE_KEY to the project's service_role key; a server that does not know the new "
    "sb_secret_ keys needs the older one, a JWT"
)
BUCKET_HINT = (
    "create the bucket, public, in this project, or name another one in RECONCILER_STORAGE_BUCKET; "
    "to a key that is not the service_role key every bucket is missing"
)
POLICY_HINT = "use the service_role key: other keys need INSERT, SELECT and UPDATE policies on storage.objects"


@dataclass(frozen=True, slots=True)
class StorageAnswer:
    """A refusal as it came; `page` where it is a gateway's HTML and not the server's own word.

    `foreign` where a REST route's answer is not in the server's own form.
    """

    status: str
    message: str
    page: bool = False
    retry_after: float | None = None
    foreign: bool = False


async def words(response: aiohttp.ClientResponse) -> str:
    """What a response says, at most about 64 KiB of it."""
    said = bytearray()
    async for chunk in response.content.iter_any():
        said += chunk
        if len(said) > _MOST:
            break
    return said.decode(errors="replace").strip()


async def heard(response: aiohttp.ClientResponse, *, rest: bool = False) -> StorageAnswer:
    """The refusal in a response; `rest` where the server itself would have said it in JSON with a statusCode."""
    wait = retry_after(response.headers.get("Retry-After"))
    text = await words(response)
    return replace(_answer(response.status, text, wait), foreign=rest and '"statusCode"' not in text)


def refusal(answer: StorageAnswer) -> ReconcilerError:
    """The error that an answer means; unknown words are Transient, because nothing is settled by them."""
    said = " ".join(_REDACTION.text(answer.message).split())[:200]
    status, lower = answer.status, said.lower()
    if status == "413":
        return Permanent(f"storage refuses the size: {said}", code="bucket_refuses_size", hint=_size_hint(answer))
    if status == "429":
        return Transient("storage is busy", code="storage_busy", retry_after=answer.retry_after)
    if status.startswith("5"):
        return Transient(f"storage failed: {status}", code="storage_5xx", retry_after=answer.retry_after)
    if answer.page:
        return Transient(f"a page instead of an answer: {status}", code="not_json", hint="is SUPABASE_URL right?")
    if status in ("401", "403") and any(word in lower for word in _KEY_WORDS):
        return Permanent(f"storage rejects the key: {said}", code="storage_key_rejected", hint=KEY_HINT)
    if status == "403":
        return Permanent(f"storage denies it: {said}", code="storage_denied", hint=POLICY_HINT)
    if status == "404":
        return _not_found(answer, said)
    if status == "415":
        return Permanent(f"the bucket refuses the type: {said}", code="bucket_refuses_type")
    return Transient(f"storage refused: {status} {said}", code="storage_refused")


def _not_found(answer: StorageAnswer, said: str) -> ReconcilerError:
    if "bucket" in said.lower():
        told = "the bucket that RECONCILER_STORAGE_BUCKET names is missing"
        return Permanent(told, code="bucket_missing", hint=BUCKET_HINT)
    if answer.foreign:
        # A gateway that knows no way to storage says so, too.
        return Transient(f"a gateway answers: {said}", code="not_json", hint="is SUPABASE_URL right?")
    return Permanent("the object is not there", code=MISSING)


@contextmanager
def translated() -> Iterator[None]:
    """Turns all that storage3 raises into our errors."""
    try:
        yield
    except StorageApiError as error:
        raise refusal(_of_storage3(error)) from error
    except httpx.HTTPError as error:
        raise unreachable(error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Transient("storage answered something else than JSON", code="not_json") from error


def unreachable(error: Exception) -> Transient:
    """The error for a request whose outcome is unknown."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return Transient("storage did not answer in time", code="timeout")
    return Transient(f"the connection to storage broke: {type(error).__name__}", code="network")


def _answer(status: int, text: str, wait: float | None) -> StorageAnswer:
    try:
        body = json.loads(text)
    except ValueError:
        return StorageAnswer(str(status), text, page=text.startswith("<"), retry_after=wait)
    if not isinstance(body, dict):
        return StorageAnswer(str(status), text, retry_after=wait)
    said = str(body.get("statusCode") or status)
    return StorageAnswer(said, str(body.get("message", "")), retry_after=wait)


def _of_storage3(error: StorageApiError) -> StorageAnswer:
    response = _response(error)
    wait = None if response is None else retry_after(response.headers.get("Retry-After"))
    # An int is the HTTP status of a body that storage3 could not read.
    if isinstance(error.status, int) and response is not None:
        return _answer(error.status, response.text.strip(), wait)
    return StorageAnswer(str(error.status), str(error.message), retry_after=wait)


def _response(error: BaseException) -> httpx.Response | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError):
            return cause.response
        cause = cause.__cause__ or cause.__context__
    return None


def _size_hint(answer: StorageAnswer) -> str:
    who = "a gateway in front of storage" if answer.page else "the bucket's or the project's file size limit"
    return f"raise the limit: {who}"
