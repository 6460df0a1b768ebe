"""How a generation stands after sync, retry or backfill, as the commands print it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.operations.explain import ExplainSettings, ended
from reconciler.postgres.reports.generation_details import GenerationDetails

Word = Literal["delivered", "failed", "working", "left"]


@dataclass(frozen=True, slots=True)
class OperationOutcome:
    """How a generation stands after an operation; `why` is a sentence for people.

    `failed` is final; a generation that we gave up ourselves is still `working`. The daemon does not change a
    generation that is `left`.
    """

    generation_id: str
    task_id: str | None
    word: Word
    why: str
    asset_url: str | None = None

    @property
    def settled(self) -> bool:
        """Return whether the generation has ended."""
        return self.word in ("delivered", "failed")


def outcome(details: GenerationDetails, settings: ExplainSettings) -> OperationOutcome:
    """Return how a generation stands."""
    row, known = details.generation, details.known
    reason = known.why if known else None
    if row.status in SUCCEEDED and ended(details, settings):
        return OperationOutcome(row.id, row.task_id, "delivered", "", row.asset_url)
    if row.status == "failed":
        word: Word = "failed" if ended(details, settings) else "working"
        return OperationOutcome(row.id, row.task_id, word, row.error or reason or "no reason was written")
    if row.status not in (*OPEN, *SUCCEEDED):
        return OperationOutcome(row.id, row.task_id, "left", f"status {row.status} belongs to the application")
    reason = reason or "KIE was not asked yet"
    if details.held:
        return OperationOutcome(row.id, row.task_id, "working", f"another instance holds it; {reason}")
    if known is None:
        return OperationOutcome(
            row.id, row.task_id, "left", "the daemon leaves it alone: its provider or its task id is excluded"
        )
    return OperationOutcome(row.id, row.task_id, "left" if known.due_at is None else "working", reason)
