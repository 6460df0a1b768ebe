"""Which routes read a body, and who may send one: a body is read only after its sender is known.

A route that reads bodies states a rule in its `BodyRouter`; `body_limiter.py` applies it. Without a rule a route gets
an empty body.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, model_validator

from reconciler.http.problems import Problem

LONGEST_BODY = 1 << 20

MAX_UNKNOWN_FIELDS = 50
"""The most unknown fields in a body; with more, the fields are not looked at."""


def _ignore(_: Problem) -> None:
    return


@dataclass(frozen=True, slots=True)
class BodyRule:
    """How the bodies of one route are read.

    `admit` looks at the head and raises Problem or Transient where the sender may not send a body. Routes with the same
    `reserve` share its memory. A body has at most `longest` bytes. `refused` is called with each refusal that keeps a
    request from its route.
    """

    admit: Callable[[Request], Awaitable[object]]
    reserve: str
    longest: int = LONGEST_BODY
    refused: Callable[[Problem], None] = _ignore


class BodyRouter(APIRouter):
    """A router with routes that read a body."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.body_rules: dict[str, BodyRule] = {}

    def reads_body(self, path: str, rule: BodyRule) -> None:
        """Let POST requests at this path have a body."""
        self.body_rules[path] = rule


class RequestBody(BaseModel):
    """The base of the bodies that routes read: it is refused as a whole where it has too many fields."""

    @model_validator(mode="before")
    @classmethod
    def _bound_fields(cls, fields: object) -> object:
        if isinstance(fields, dict) and len(fields) > len(cls.model_fields) + MAX_UNKNOWN_FIELDS:
            raise ValueError(f"more than {MAX_UNKNOWN_FIELDS} fields are unknown")
        return fields
