"""Tokens as a Supabase project signs them: its keys, its tokens, and a server with its public keys."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import FastAPI, Response
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from reconciler.http.app import serving

SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"
ALICE = "6f1c7a52-8c1c-4f57-9a5e-2f2a9b1f0a11"
BOB = "0d4b2f7e-33a1-4f0c-8a56-0c7bd5a9a022"

_GENERATE: dict[str, Callable[[], Any]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
_JWK = {"ES256": ECAlgorithm, "RS256": RSAAlgorithm, "EdDSA": OKPAlgorithm}


def claims(**more: object) -> dict[str, object]:
    """Return the claims of a Supabase access token; a value of None removes the claim."""
    now = int(time.time())
    standard = {"iss": "https://project.supabase.co/auth/v1", "iat": now, "exp": now + 3600, "sub": ALICE}
    standard |= {"aud": "authenticated", "role": "authenticated", "session_id": "s", "is_anonymous": False}
    return {name: value for name, value in (standard | more).items() if value is not None}


def shared(user_id: str = ALICE, **more: object) -> str:
    """Return a token signed with the project's shared secret."""
    return jwt.encode(claims(sub=user_id, **more), SECRET, "HS256")


def assembled(header: Mapping[str, object], payload: Mapping[str, object], signature: bytes = b"") -> str:
    """Return a token assembled by hand, which no library would create."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    return ".".join([part(json.dumps(header).encode()), part(json.dumps(payload).encode()), part(signature)])


@dataclass(frozen=True)
class Pair:
    """A private key, and its public key as the project publishes it."""

    kid: str
    algorithm: str
    private: Any

    @classmethod
    def of(cls, algorithm: str, kid: str = "key-1") -> Pair:
        return cls(kid, algorithm, _GENERATE[algorithm]())

    @property
    def public(self) -> dict[str, object]:
        jwk = _JWK[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return {**jwk, "kid": self.kid, "alg": self.algorithm, "use": "sig", "key_ops": ["verify"]}

    def token(self, payload: Mapping[str, object] | None = None, **header: object) -> str:
        return jwt.encode(dict(payload or claims()), self.private, self.algorithm, {"kid": self.kid, **header})


@dataclass
class Project:
    """The server of the public keys; `keys` may change, `answer` replaces the list."""

    keys: list[Pair] = field(default_factory=list)
    answer: Response | None = None
    fetches: int = 0
    url: str = ""


@asynccontextmanager
async def project(*keys: Pair) -> AsyncIterator[Project]:
    """Serve a project's public keys over HTTP."""
    served = Project(list(keys))
    app = FastAPI()

    @app.get("/auth/v1/.well-known/jwks.json")
    async def jwks() -> Response:
        served.fetches += 1
        return served.answer or Response(json.dumps({"keys": [key.public for key in served.keys]}))

    async with serving(app, "127.0.0.1", 0) as port:
        served.url = f"http://127.0.0.1:{port}"
        yield served
