"""Who is calling: the operator by RECONCILER_API_TOKEN, an end user by an access token of Supabase Auth.

The routes decide what a caller may see, and filter rows by `user_id`. No answer reveals the token or why it is invalid.
"""

import hmac
from dataclasses import dataclass, field

import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from reconciler.http.problems import Problem
from reconciler.net.jwks import Jwks

_LEEWAY = 10.0
"""Seconds by which the project's clock and ours may differ."""

_LONGEST_TOKEN = 8192
_LONGEST_ID = 200
_REQUIRED = ["exp", "aud", "sub", "role"]
_ROLE = "authenticated"
_KNOWN = "reconciler.caller"
"""Where a request's scope holds its caller, once known."""

# These describe the API only; `Authenticator` reads the header itself.
_OPERATOR = HTTPBearer(scheme_name="operator", description="RECONCILER_API_TOKEN: sees every row", auto_error=False)
_USER = HTTPBearer(
    scheme_name="user",
    bearerFormat="JWT",
    description="an access token of Supabase Auth: sees its user's rows",
    auto_error=False,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request; `user_id` None is the operator, who may see every row.

    `anonymous` is an end user who has signed in without an address, a number or a provider: anybody can do so, as often
    as they like. `expires` is when a user's token does, in Unix seconds; None for the operator's, which does not.
    """

    user_id: str | None
    anonymous: bool = False
    expires: float | None = field(default=None, compare=False)

    @property
    def operator(self) -> bool:
        """Whether this is the operator."""
        return self.user_id is None


@dataclass(frozen=True, slots=True)
class TokenVerifier:
    """Verifies end users' tokens: with the project's shared secret where it is set, else with its public keys."""

    secret: str = field(repr=False)
    keys: Jwks | None = None

    async def user(self, token: str) -> Caller | None:
        """Return the end user of a valid token, None for an invalid one; Transient while the keys cannot be fetched."""
        try:
            if self.secret:
                return _user(_claims(token, self.secret, ["HS256"]))
            kid = jwt.get_unverified_header(token).get("kid")
            key = await self.keys.key(kid) if self.keys and isinstance(kid, str) else None
            # The key defines the algorithm: a token that names another one is invalid.
            return _user(_claims(token, key, [key.algorithm_name])) if key else None
        except jwt.PyJWTError:
            return None


class Authenticator:
    """Identifies callers by the Authorization header; `token` is the operator's, empty where there is none."""

    def __init__(self, token: str, tokens: TokenVerifier | None = None) -> None:
        self._token = token.encode()
        self._tokens = tokens

    async def caller(
        self,
        request: Request,
        _operator: HTTPAuthorizationCredentials | None = Depends(_OPERATOR),
        _user: HTTPAuthorizationCredentials | None = Depends(_USER),
    ) -> Caller:
        """Return the caller; Problem 401 without a valid token, Transient while the keys cannot be fetched.

        It is a FastAPI dependency.
        """
        return await self.identify(request)

    async def identify(self, request: Request) -> Caller:
        """Return the caller like `caller`; a request with a body is looked at once, before its body is read."""
        known: Caller | None = request.scope.get(_KNOWN)
        if known is None:
            known = request.scope[_KNOWN] = await self._identify(_bearer(request))
        return known

    async def _identify(self, token: str) -> Caller:
        if token and self._token and hmac.compare_digest(token.encode(), self._token):
            return Caller(None)
        user = await self._tokens.user(token) if token and self._tokens else None
        if user is None:
            raise unauthorized("a bearer token is needed")
        return user


def unauthorized(detail: str) -> Problem:
    """Return the 401 that asks for a bearer token."""
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="kie-reconciler"'})


def _bearer(request: Request) -> str:
    """Return the bearer token, empty where there is none, more than one header, or a token that is too long."""
    headers = request.headers.getlist("Authorization")
    scheme, _, token = (headers[0] if len(headers) == 1 else "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and len(token) <= _LONGEST_TOKEN else ""


def _claims(token: str, key: jwt.PyJWK | str, algorithms: list[str]) -> dict[str, object]:
    options: jwt.types.Options = {"require": _REQUIRED}
    return jwt.decode(token, key, algorithms, options, audience=_ROLE, leeway=_LEEWAY)


def _user(claims: dict[str, object]) -> Caller | None:
    """Return the end user; the project's own API keys are tokens as well, but belong to no user."""
    sub = claims["sub"]
    if claims["role"] != _ROLE or not isinstance(sub, str) or not sub.isprintable():
        return None
    # Supabase Auth from before anonymous sign-ins writes no such claim.
    anonymous = claims.get("is_anonymous", False) is not False
    # PyJWT has checked that it is a number.
    expires = float(str(claims["exp"]))
    return Caller(sub, anonymous, expires) if 0 < len(sub) <= _LONGEST_ID else None
