"""Who is asking: the operator by a token, an end user by a token of Supabase's.

Nothing here knows what may be seen with it; the routes ask and filter by `user_id`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from fastapi import Request

from reconciler.doors.problems import Problem


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking; `user_id` None is the operator, who may see every row."""

    user_id: str | None

    @property
    def operator(self) -> bool:
        """Whether this is the operator."""
        return self.user_id is None


class Gate:
    """Tells who is asking by the Authorization header; `token` is the operator's, empty where there is none."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def caller(self, request: Request) -> Caller:
        """Return who is asking; Problem 401 without a token that holds. A FastAPI dependency."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._token and hmac.compare_digest(given.encode(), self._token):
            return Caller(None)
        raise Problem(
            401,
            "unauthorized",
            "a bearer token is needed",
            headers={"WWW-Authenticate": 'Bearer realm="kie-reconciler"'},
        )
