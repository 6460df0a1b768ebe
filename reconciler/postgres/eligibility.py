"""Which of the application's rows belong to us. Claims, discovery and the reports ask by it."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import asyncpg

from reconciler.domain.object_keys import PROVIDER_HOSTS, AddressRules
from reconciler.errors import Config
from reconciler.postgres.predicates import HAS_NO_TASK, IS_SUCCESS, OPEN_OR_UNHEALED, asset_is_result
from reconciler.postgres.schema import TableShape

UNREADABLE = "unreadable_pattern"
"""The code of a Config about a pattern that PostgreSQL cannot read."""

LONGEST_TASK = 2000
"""The most bytes of a task's id. An index takes 2,704; one row's longer id would break the statement for the others."""


@dataclass(frozen=True, slots=True)
class EligibleRows:
    """Which rows belong to us: by their provider and by what their task's id looks like."""

    providers: tuple[str, ...]
    task_pattern: str
    rules: AddressRules

    @property
    def parameters(self) -> Mapping[str, object]:
        """The parameters of `eligible`, by name."""
        return {
            "providers": list(self.providers),
            "task_pattern": self.task_pattern,
            **addresses(self.rules),
        }


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


def addresses(rules: AddressRules) -> Mapping[str, object]:
    """Return the parameters of `unstored`, by name."""
    hosts = [host for host in rules.provider_hosts if host != "*"] or PROVIDER_HOSTS
    names = "|".join(re.escape(host) for host in hosts)
    pattern = rf"(?i)^https?://([^/?#]*[@.])?({names})\.?(:[0-9]*)?([/?#]|$)"
    return {"provider_pattern": pattern, "storage_address": rules.storage}


def unstored(table: TableShape) -> str:
    """Return the condition that a success shows no address, or one at the provider.

    Takes :provider_pattern and :storage_address. `AddressRules.at_provider` decides in the end; this lets a few more
    rows through.
    """
    at_provider = f"(g.asset_url::text ~ :provider_pattern OR {asset_is_result(table)})"
    in_storage = "(:storage_address <> '' AND starts_with(g.asset_url::text, :storage_address))"
    return f"(coalesce(g.asset_url::text, '') = '' OR ({at_provider} AND NOT {in_storage}))"


def owned(table: TableShape) -> str:
    """Return the condition for rows of our providers whose task's id looks like ours (:providers, :task_pattern).

    A row whose task's id is too long for our index is not ours.
    """
    provider = (
        "(g.provider IS NULL OR g.provider = ANY(:providers))"
        if table.has("provider")
        else ":providers::text[] IS NOT NULL"
    )
    task = f"octet_length(g.task_id) <= {LONGEST_TASK} AND g.task_id ~ :task_pattern"
    return f"{provider} AND ({HAS_NO_TASK} OR {task})"


def eligible(table: TableShape, also: str = "false") -> str:
    """Return the condition for owned rows that may need a visit (see `unstored`), or for which `also` holds."""
    return f"""{owned(table)}
       AND ({OPEN_OR_UNHEALED} OR ({IS_SUCCESS} AND {unstored(table)}) OR {also})"""
