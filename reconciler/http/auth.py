"""Who is asking: the operator by a token, an end user by a token of Supabase's.

Nothing here knows what may be seen with it; the routes ask and filter by `user_id`. No answer says anything of the
token, nor why it does not hold.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

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

# For the description of the API; what is believed is read from the request below.
_OPERATOR = HTTPBearer(scheme_name="operator", description="RECONCILER_API_TOKEN: sees every row", auto_error=False)
_USER = HTTPBearer(
    scheme_name="user",
    bearerFormat="JWT",
    description="an access token of Supabase Auth: sees its user's rows",
    auto_error=False,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking; `user_id` None is the operator, who may see every row."""

    user_id: str | None

    @property
    def operator(self) -> bool:
        """Whether this is the operator."""
        return self.user_id is None

    def sees(self, user_id: str | None) -> bool:
        """Whether a row of this user (None: of nobody) may be shown."""
        return self.operator or self.user_id == user_id


class TokenVerifier:
    """Reads end users' tokens: by the project's shared secret where there is one, else by its public keys."""

    def __init__(self, secret: str, keys: Jwks | None = None) -> None:
        self._secret = secret
        self._keys = keys

    async def user(self, token: str) -> str | None:
        """Return whose token it is, None when it does not hold; Transient when that cannot be told now."""
        try:
            if self._secret:
                return _user(_claims(token, self._secret, ["HS256"]))
            kid = jwt.get_unverified_header(token).get("kid")
            key = await self._keys.key(kid) if self._keys and isinstance(kid, str) else None
            # The algorithm is the key's: a header that names another one is refused.
            return _user(_claims(token, key, [key.algorithm_name])) if key else None
        except jwt.PyJWTError:
            return None


class Authenticator:
    """Tells who is asking by the Authorization header; `token` is the operator's, empty where there is none."""

    def __init__(self, token: str, tokens: TokenVerifier | None = None) -> None:
        self._token = token.encode()
        self._tokens = tokens

    async def caller(
        self,
        request: Request,
        _operator: HTTPAuthorizationCredentials | None = Depends(_OPERATOR),
        _user: HTTPAuthorizationCredentials | None = Depends(_USER),
    ) -> Caller:
        """Return who is asking; Problem 401 without a token that holds, 503 when the project cannot be asked about it.

        A FastAPI dependency.
        """
        given = _bearer(request)
        if given and self._token and hmac.compare_digest(given.encode(), self._token):
            return Caller(None)
        user_id = await self._tokens.user(given) if given and self._tokens else None
        if user_id is None:
            raise Problem(
                401,
                "unauthorized",
                "a bearer token is needed",
                headers={"WWW-Authenticate": 'Bearer realm="kie-reconciler"'},
            )
        return Caller(user_id)


def _bearer(request: Request) -> str:
    """Return the one token of the header, empty where there is none, more than one, or one too long."""
    headers = request.headers.getlist("Authorization")
    scheme, _, given = (headers[0] if len(headers) == 1 else "").partition(" ")
    given = given.strip()
    return given if scheme.lower() == "bearer" and len(given) <= _LONGEST_TOKEN else ""


def _claims(token: str, key: jwt.PyJWK | str, algorithms: list[str]) -> dict[str, object]:
    options: jwt.types.Options = {"require": _REQUIRED}
    return jwt.decode(token, key, algorithms, options, audience=_ROLE, leeway=_LEEWAY)


def _user(claims: dict[str, object]) -> str | None:
    """Return the user; the project's own keys are tokens too, and are nobody's."""
    sub = claims["sub"]
    if claims["role"] != _ROLE or not isinstance(sub, str) or not sub.isprintable():
        return None
    return sub if 0 < len(sub) <= _LONGEST_ID else None
