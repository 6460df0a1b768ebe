"""What the command `stuck` answers: the generations in flight for too long, each with its cause and its remedy.

The rows come from the reports, the diagnosis of each from `explain.py`, so that both commands say the same.
"""

from dataclasses import asdict, dataclass
from datetime import datetime

from reconciler.domain.model import OPEN
from reconciler.operations.explain import diagnosed
from reconciler.postgres.reports.reports import InFlight, Reports, StuckGeneration
from reconciler.settings import Settings

AT_ONCE = 500
"""Generations whose details are read in one statement."""


@dataclass(frozen=True, slots=True)
class DiagnosedGeneration:
    """One generation in flight for too long; `why` is the last attempt's own word, `age` in seconds.

    `state` is a word of `diagnosis.State`, `cause` and `do` are sentences.
    """

    id: str
    task_id: str | None
    kind: str | None
    model: str | None
    status: str
    created_at: datetime
    age: float
    why: str
    finding: str | None
    looks: int
    due_at: datetime | None
    state: str
    cause: str
    do: str


@dataclass(frozen=True, slots=True)
class StuckAnswer:
    """The generations in flight for too long, the oldest first, and all that are in flight."""

    generations: tuple[DiagnosedGeneration, ...]
    in_flight: InFlight


async def stuck(reports: Reports, settings: Settings) -> StuckAnswer:
    """Return what is in flight for too long; a row that ends meanwhile is left out."""
    rows = await reports.stuck()
    found: list[DiagnosedGeneration] = []
    for begin in range(0, len(rows), AT_ONCE):
        page = rows[begin : begin + AT_ONCE]
        details = {one.generation.id: one for one in await reports.details_of([row.id for row in page])}
        for row in page:
            if row.id in details and details[row.id].generation.status in OPEN:
                diagnosis = diagnosed(details[row.id], settings)
                found.append(_diagnosed(row, diagnosis.state, diagnosis.cause, diagnosis.remedy))
    return StuckAnswer(tuple(found), await reports.in_flight())


def _diagnosed(row: StuckGeneration, state: str, cause: str, do: str) -> DiagnosedGeneration:
    return DiagnosedGeneration(**asdict(row), state=state, cause=cause, do=do)
