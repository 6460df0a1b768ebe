"""The public keys with which the Supabase project signs its users' tokens.

Kept for ten minutes and asked for again when a key is unknown, at most once a minute: tokens come from strangers, who
must not make us ask as often as they like. What a token says is judged in `http/auth.py`.
"""

from __future__ import annotations

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
_LIFE = 600.0
_AGAIN = 60.0
_RETRY = 5.0
_STALE = 3600.0
"""Seconds that known keys are believed while the project cannot be asked."""

_MAX_BODY = 64 << 10
_PATIENCE = 10.0


class Jwks:
    """The keys at one address, by their id; `clock` is in monotonic seconds."""

    def __init__(self, supabase_url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = supabase_url.rstrip("/") + PATH
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._asked = self._heard = float("-inf")
        self._trouble: Transient | None = None
        self._asking = asyncio.Lock()

    async def key(self, kid: str) -> PyJWK | None:
        """Return the key of this id, None when there is none; Transient when the project cannot be asked."""
        if self._due(kid):
            async with self._asking:
                # Whoever waited for another's answer has it now.
                if self._due(kid):
                    await self._ask()
        found = self._keys.get(kid)
        if self._trouble is not None and (found is None or self._clock() - self._heard > _STALE):
            raise self._trouble
        return found

    def _due(self, kid: str) -> bool:
        known = _LIFE if kid in self._keys else _AGAIN
        return self._clock() - self._asked >= (known if self._trouble is None else _RETRY)

    async def _ask(self) -> None:
        try:
            self._keys = await self._fetched()
        except Transient as error:
            self._trouble = error
            log.warning("keys.away", reason=str(error))
        else:
            self._trouble, self._heard = None, self._clock()
            if not self._keys:
                log.warning("keys.none", do="set SUPABASE_JWT_SECRET: the project signs with a shared secret")
        self._asked = self._clock()

    async def _fetched(self) -> dict[str, PyJWK]:
        try:
            async with asyncio.timeout(_PATIENCE), json_client(timeout=_PATIENCE) as client:
                listed = json.loads(await _body(client, self._url))["keys"]
                return {one["kid"]: key for one in listed if (key := _key(one))}
        except (TimeoutError, httpx.HTTPError):
            told = "the project's signing keys cannot be reached"
        except (ValueError, TypeError, KeyError, RecursionError):
            told = "the project's signing keys are not a key set"
        raise Transient(
            told, code="keys_away", hint="check SUPABASE_URL, or set SUPABASE_JWT_SECRET", retry_after=_RETRY
        )


async def _body(client: httpx.AsyncClient, url: str) -> bytes:
    body = bytearray()
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != 200:
            raise ValueError(answer.status_code)
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > _MAX_BODY:
                raise ValueError("too long")
    return bytes(body)


def _key(one: object) -> PyJWK | None:
    """Return a key bound to the one algorithm of its kind; None for what signs nothing for us."""
    if not isinstance(one, dict) or not isinstance(one.get("kid"), str) or one.get("use", "sig") != "sig":
        return None
    algorithm = _ALGORITHMS.get((one.get("kty"), one.get("crv")))
    try:
        return PyJWK(one, algorithm) if algorithm else None
    except PyJWTError:
        return None
