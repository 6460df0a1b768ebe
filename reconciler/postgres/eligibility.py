"""Which of the application's rows are ours at all. Claims and discovery ask by it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from reconciler.errors import Config
from reconciler.postgres.schema import OPEN_OR_UNHEALED, TableShape

UNREADABLE = "unreadable_pattern"
"""The code of a Config about a pattern that PostgreSQL cannot read."""

LONGEST_TASK = 2000
"""Bytes of a task's id at most: an index takes 2,704, and one row's must not break the statement for the others."""


@dataclass(frozen=True, slots=True)
class EligibleRows:
    """Which of the application's rows are ours at all: their provider, and what their task id looks like."""

    providers: tuple[str, ...]
    task_pattern: str
    their_hosts: tuple[str, ...]

    @property
    def parameters(self) -> tuple[list[str], str, str]:
        """What `ours_sql` compares with, in its order."""
        return list(self.providers), self.task_pattern, _unstored_pattern(self.their_hosts)


async def readable(ask: Callable[[str, str], Awaitable[object]], pattern: str) -> None:
    """Let PostgreSQL read the pattern for task ids; Config where it cannot, as Python's expressions can say more."""
    try:
        await ask("SELECT '' ~ $1", pattern)
    except asyncpg.InvalidRegularExpressionError as error:
        raise Config(
            f"RECONCILER_TASK_PATTERN cannot be read by PostgreSQL: {error}",
            code=UNREADABLE,
            hint="write it as PostgreSQL does: (?:…) for a group, no names",
        ) from error


def _unstored_pattern(hosts: Sequence[str]) -> str:
    """A regular expression for addresses at the provider, and for none where the column takes no NULL.

    `*` says what may be fetched, not whose it is.
    """
    names = "|".join(re.escape(host) for host in hosts if host != "*")
    if not names:
        return "^$"
    return rf"^$|^https?://([^/@?#]*\.)?({names})(:[0-9]+)?([/?#]|$)"


def owned_sql(shape: TableShape, first: int = 1) -> str:
    """The rows that are ours by provider and task, by the parameters `first` (providers) and the next (pattern).

    A task's id that our index could not take is nobody's.
    """
    provider = (
        f"(g.provider IS NULL OR g.provider = ANY(${first}))"
        if shape.has("provider")
        else f"${first}::text[] IS NOT NULL"
    )
    task = f"octet_length(g.task_id) <= {LONGEST_TASK} AND g.task_id ~ ${first + 1}"
    return f"{provider} AND (g.task_id IS NULL OR {task})"


def ours_sql(shape: TableShape, first: int, also: str = "false") -> str:
    """The rows that are ours at all, by the parameters `first` (providers) and the next two (pattern, their hosts)."""
    return f"""{owned_sql(shape, first)}
       AND ({OPEN_OR_UNHEALED} OR (g.status IN ('success', 'completed') AND g.asset_url ~ ${first + 2}) OR {also})"""
