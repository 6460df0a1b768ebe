"""The check `callback`: the address that KIE calls back, and the server that answers there.

The address is judged as it is written before a request is sent to it.
"""

import json
import re
from dataclasses import dataclass
from typing import Final, assert_never
from urllib.parse import urlsplit

import httpx

from reconciler.domain.object_keys import CALLBACK_PATH, callback_address
from reconciler.errors import Transient
from reconciler.net.addresses import is_public
from reconciler.operations.doctor import Check, NotKnown, attempt, fail, not_looked, ok, warn
from reconciler.settings import Settings

_UNAUTHORIZED: Final = 401
_NOT_FOUND: Final = 404

_ANSWER_BYTES: Final = 64 << 10
"""More of an answer is not read."""


@dataclass(frozen=True, slots=True)
class CallbackAddress:
    """The address that KIE calls back, without query and login.

    `proven`: a secret or a key is set, by which a callback proves that KIE sent it. `private`: the host is this machine
    or in a private network. `private_allowed`: the settings allow that.
    """

    url: str
    proven: bool
    private: bool = False
    private_allowed: bool = False


@dataclass(frozen=True, slots=True)
class CallbackAnswer:
    """The answer to a callback that proves nothing; `ours`: it is this daemon's own refusal."""

    status: int
    ours: bool


async def check_callback(settings: Settings, client: httpx.AsyncClient, *, within: float) -> Check:
    """Judge the address in the settings, and what answers there within so many seconds."""
    address = _read_address(settings)
    if address is None or judge_address(address) is not None:
        return judge_callback(address, None)
    return judge_callback(address, await attempt(lambda: read_answer(client, address.url), within=within))


def judge_callback(address: CallbackAddress | None, answer: CallbackAnswer | NotKnown | None) -> Check:
    """Judge the callback address; an `answer` of None means that no request was sent."""
    if address is None:
        return ok("callback", "KIE_CALLBACK_URL is not set: KIE is polled, and callbacks are off")
    if (wrong := judge_address(address)) is not None:
        return wrong
    match answer:
        case None:
            return not_looked("callback", "no request was sent")
        case NotKnown():
            do = "Start the daemon; check DNS, firewall and reverse proxy. Until then KIE is polled."
            return warn("callback", f"{address.url} cannot be reached from here: {answer.reason}", do)
        case CallbackAnswer(ours=True):
            return ok("callback", f"{address.url} answers, and refuses a callback without proof")
        case CallbackAnswer(status=status) if status in (_UNAUTHORIZED, _NOT_FOUND):
            says = f"{address.url} answers {status}, but not as this daemon does"
            return fail("callback", says, f"Let the reverse proxy pass {CALLBACK_PATH} on to the daemon's port.")
        case CallbackAnswer(status=status) if status >= 500:
            do = "Check whether the daemon runs, and the reverse proxy in front of it."
            return warn("callback", f"{address.url} answers {status}", do)
        case CallbackAnswer(status=status):
            says = f"{address.url} answers {status} to a callback without proof; it should answer {_UNAUTHORIZED}"
            return fail("callback", says, "Check which server has that address: KIE's callbacks miss the daemon.")
        case _:
            assert_never(answer)


def judge_address(address: CallbackAddress) -> Check | None:
    """Return what is wrong with the address as it is written, or None."""
    parts = urlsplit(address.url)
    if (times := parts.path.count(CALLBACK_PATH)) > 1:
        base = parts._replace(path=parts.path.partition(CALLBACK_PATH)[0]).geturl()
        return fail("callback", f"KIE_CALLBACK_URL holds the path {times} times", f"Set it: KIE_CALLBACK_URL={base}")
    if not address.proven:
        says = "every callback is refused: neither KIE_CALLBACK_SECRET nor KIE_WEBHOOK_HMAC_KEY is set"
        return fail("callback", says, "Set one of them; for a secret: openssl rand -hex 32")
    if address.private and not address.private_allowed:
        says = f"{address.url} is on this machine or in a private network, where KIE cannot reach it"
        return fail("callback", says, "Give KIE_CALLBACK_URL the public address of the reverse proxy.")
    if parts.scheme == "http" and not address.private:
        return warn("callback", f"{address.url} is not encrypted, and the secret is part of it", "Use https.")
    return None


def _read_address(settings: Settings) -> CallbackAddress | None:
    if not settings.kie_callback_url:
        return None
    parts = urlsplit(callback_address(settings.kie_callback_url, "", ""))
    return CallbackAddress(
        # Without query and login: both may hold a secret, and the address is printed.
        parts._replace(query="", netloc=parts.netloc.rpartition("@")[2]).geturl(),
        proven=bool(settings.kie_callback_secret or settings.kie_webhook_hmac_key),
        private=_is_private(parts.hostname or ""),
        private_allowed=settings.allow_private_hosts,
    )


def _is_private(host: str) -> bool:
    """Return whether the host is localhost or a private address; names are not resolved."""
    literal = re.fullmatch(r"[0-9.]+|.*:.*", host) is not None
    return host == "localhost" or (literal and not is_public(host))


async def read_answer(client: httpx.AsyncClient, url: str) -> CallbackAnswer:
    """Send a callback that proves nothing and return the answer; Transient where there is none."""
    try:
        async with client.stream("POST", url, content=b"{}", headers={"Content-Type": "application/json"}) as response:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _ANSWER_BYTES:
                    break
            ours = response.status_code == _UNAUTHORIZED and _is_refusal(bytes(body))
            return CallbackAnswer(response.status_code, ours)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Transient(type(error).__name__, code="network") from error


def _is_refusal(body: bytes) -> bool:
    """Return whether this is how the daemon refuses a callback."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("error") == "unauthorized"
