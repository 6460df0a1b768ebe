"""The public keys with which the Supabase project signs its users' tokens.

The keys are cached for ten minutes. An unknown key id fetches them again, at most once a minute: tokens come from
strangers, who must not control how often we ask the project. `http/auth.py` checks the tokens.
"""

import asyncio
import json
import time
from collections.abc import Callable

import httpx
import structlog
from jwt import PyJWK, PyJWTError

from reconciler.errors import Transient
from reconciler.net.http_clients import json_client

log = structlog.get_logger()

PATH = "/auth/v1/.well-known/jwks.json"

_ALGORITHMS: dict[object, str] = {("EC", "P-256"): "ES256", ("RSA", None): "RS256", ("OKP", "Ed25519"): "EdDSA"}
_REFRESH_SECONDS = 600.0
_UNKNOWN_KEY_SECONDS = 60.0
_RETRY_SECONDS = 5.0
_STALE_SECONDS = 3600.0
"""How long known keys are used while the project cannot be asked."""

_MAX_BODY = 64 << 10
_TIMEOUT = 10.0


class Jwks:
    """The keys of one project by their id; `clock` is in monotonic seconds."""

    def __init__(self, supabase_url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = supabase_url.rstrip("/") + PATH
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._asked_at = self._answered_at = float("-inf")
        self._error: Transient | None = None
        self._fetching = asyncio.Lock()

    async def key(self, kid: str) -> PyJWK | None:
        """Return the key of this id, None when there is none; Transient when the project cannot be asked."""
        if self._due(kid):
            async with self._fetching:
                # A task that waited for the lock has the answer that another task fetched.
                if self._due(kid):
                    await self._refresh()
        found = self._keys.get(kid)
        if self._error is not None and (found is None or self._clock() - self._answered_at > _STALE_SECONDS):
            raise self._error
        return found

    def _due(self, kid: str) -> bool:
        age = _REFRESH_SECONDS if kid in self._keys else _UNKNOWN_KEY_SECONDS
        return self._clock() - self._asked_at >= (age if self._error is None else _RETRY_SECONDS)

    async def _refresh(self) -> None:
        try:
            self._keys = await self._fetch()
        except Transient as error:
            self._error = error
            log.warning("keys.away", reason=str(error))
        else:
            self._error, self._answered_at = None, self._clock()
            if not self._keys:
                log.warning("keys.none", do="set SUPABASE_JWT_SECRET: the project signs with a shared secret")
        self._asked_at = self._clock()

    async def _fetch(self) -> dict[str, PyJWK]:
        try:
            async with asyncio.timeout(_TIMEOUT), json_client(timeout=_TIMEOUT) as client:
                entries = json.loads(await _body(client, self._url))["keys"]
                return {entry["kid"]: key for entry in entries if (key := _key(entry))}
        except (TimeoutError, httpx.HTTPError):
            reason = "the project's signing keys cannot be reached"
        except (ValueError, TypeError, KeyError, RecursionError):
            reason = "the project's signing keys are not a key set"
        raise Transient(
            reason, code="keys_away", hint="check SUPABASE_URL, or set SUPABASE_JWT_SECRET", retry_after=_RETRY_SECONDS
        )


async def _body(client: httpx.AsyncClient, url: str) -> bytes:
    body = bytearray()
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
        if response.status_code != 200:
            raise ValueError(response.status_code)
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _MAX_BODY:
                raise ValueError("too long")
    return bytes(body)


def _key(entry: object) -> PyJWK | None:
    """Return the key, bound to the one algorithm of its type; None for an entry that is no supported signing key."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or entry.get("use", "sig") != "sig":
        return None
    algorithm = _ALGORITHMS.get((entry.get("kty"), entry.get("crv")))
    try:
        return PyJWK(entry, algorithm) if algorithm else None
    except PyJWTError:
        return None
