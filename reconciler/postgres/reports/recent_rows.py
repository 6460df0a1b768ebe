"""Reads what ended in the last minutes, whose last attempt failed, and which rows no setting covers. It never writes.

`doctor` asks it, beside the figures of `reports`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.postgres.pool import StatementRunner
from reconciler.postgres.predicates import (
    HAS_NO_TASK,
    IN_FLIGHT,
    SAME_TASK,
)
from reconciler.postgres.records import build
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement

KNOWN_STATUSES = (*OPEN, *SUCCEEDED, "failed", "cancelled")
"""The words for statuses that the daemon understands; rows with another word are left alone."""

_DAY = timedelta(hours=24)

# Reads the events since :within. Returns how many generations were delivered, and how many failed.
_ENDED = Statement("""
SELECT count(*) FILTER (WHERE kind IN ('succeeded', 'recovered', 'healed')) AS delivered,
       count(*) FILTER (WHERE kind IN ('failed', 'gave_up')) AS failed
  FROM reconciler.events WHERE at > now() - :within::interval""")


@dataclass(frozen=True, slots=True)
class EndedCounts:
    """How many generations were delivered within some time, and how many failed."""

    delivered: int
    failed: int


@dataclass(frozen=True, slots=True)
class FailingStage:
    """The rows in flight whose last attempt failed at one stage; `seconds` since the first of them began to fail.

    `reason` is what the row says that has failed for longest.
    """

    stage: str
    rows: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class IgnoredRows:
    """Rows in flight that are left alone for the `word` in their column; an empty task_id is only read as none."""

    column: Literal["provider", "status", "task_id"]
    word: str
    rows: int


class RecentRows:
    """Reads the application's table and our bookkeeping; rows of another of `providers` are left alone."""

    def __init__(self, database: StatementRunner, table: TableShape, providers: Sequence[str]) -> None:
        self._database = database
        self._providers = list(providers)
        self._failing = _failing(table)
        self._ignored = _ignored(table)

    async def ended(self, within: timedelta) -> EndedCounts:
        """Return how many generations ended within this time."""
        row = await self._database.row(*_ENDED(within=within))
        assert row is not None
        return build(EndedCounts, row)

    async def failing(self) -> tuple[FailingStage, ...]:
        """Return the rows whose last attempt failed by stage, the most rows first."""
        return tuple(build(FailingStage, row) for row in await self._database.fetch(*self._failing()))

    async def ignored(self) -> tuple[IgnoredRows, ...]:
        """Return the rows that are left alone by column and word, the most rows first."""
        statement = self._ignored(providers=self._providers, known=list(KNOWN_STATUSES), within=_DAY)
        return tuple(build(IgnoredRows, row) for row in await self._database.fetch(*statement))


def _failing(table: TableShape) -> Statement:
    """Read our rows in flight whose last attempt failed; return a FailingStage for each stage.

    The stage is what stands before the first colon or semicolon of the reason.
    """
    return Statement(f"""
SELECT split_part(split_part(coalesce(w.why, 'unknown'), ':', 1), ';', 1) AS stage, count(*) AS rows,
       coalesce(extract(epoch FROM max(now() - w.failing_since)), 0)::float8 AS seconds,
       coalesce((array_agg(w.why ORDER BY w.failing_since))[1], '') AS reason
  FROM reconciler.work w JOIN public.generations g ON g.id = w.generation_id::{table.id_type}
 WHERE w.due_at IS NOT NULL AND w.misses > 0 AND {SAME_TASK} AND {IN_FLIGHT}
 GROUP BY 1 ORDER BY 2 DESC, 1""")


def _ignored(table: TableShape) -> Statement:
    """Read rows that are left alone; return IgnoredRows.

    Of a provider that is not one of :providers: those in flight. Of a status that is not one of :known: those of the
    last :within that have a task and no asset. Of an empty task_id: those in flight.
    """
    of_providers = f"""
SELECT 'provider' AS column, g.provider::text AS word, count(*) AS rows FROM public.generations g
 WHERE {IN_FLIGHT} AND g.provider <> ALL (:providers::text[]) GROUP BY 2
 UNION ALL"""
    return Statement(f"""
SELECT * FROM ({of_providers if table.has("provider") else ""}
SELECT 'status' AS column, g.status::text AS word, count(*) AS rows FROM public.generations g
 WHERE g.status <> ALL (:known::text[]) AND g.created_at > now() - :within::interval
   AND NOT {HAS_NO_TASK} AND g.asset_url IS NULL AND :providers::text[] IS NOT NULL GROUP BY 2
 UNION ALL
SELECT 'task_id', '', count(*) FROM public.generations g WHERE {IN_FLIGHT} AND g.task_id = '' HAVING count(*) > 0
) AS left_alone ORDER BY rows DESC, word""")
