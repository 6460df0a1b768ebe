"""The state of one result host or KIE path: whether requests to it go out, or wait because it says nothing.

    closed ──SILENT_ROWS different rows in a row got no byte──> open
    open   ──any byte of any answer──> closed

Only silence opens it: a time-out, a refused or a reset connection. While it is open, one row goes through every
TRIAL_SECONDS. Pure; the times are seconds of one monotonic clock of the caller's.
"""

from dataclasses import dataclass, field

SILENT_ROWS = 3
"""So many different rows in a row must have got no byte: one bad row says nothing about its host."""

TRIAL_SECONDS = 5.0
"""While it is open, one row goes through each time these seconds have passed."""


@dataclass(slots=True)
class Breaker:
    """`since` is when the first of the silent requests began, None while the last request was answered."""

    since: float | None = None
    opened_at: float | None = None
    _heard_at: float | None = None
    _next_trial: float = 0.0
    _trial_row: str | None = None
    _silent_rows: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether rows have to wait."""
        return self.opened_at is not None

    def admits(self, generation_id: str, now: float) -> bool:
        """Return whether a request for this row may go out; while it is open, one row is the trial."""
        if not self.is_open or generation_id == self._trial_row:
            return True
        if now < self._next_trial:
            return False
        self._trial_row, self._next_trial = generation_id, now + TRIAL_SECONDS
        return True

    def heard(self, now: float) -> float | None:
        """Note a byte; return the seconds for which it was open if this closes it, else None."""
        opened_at = self.opened_at
        self._heard_at, self.since, self.opened_at, self._trial_row = now, None, None, None
        self._silent_rows.clear()
        return None if opened_at is None else now - opened_at

    def silent(self, generation_id: str, began: float, now: float) -> bool:
        """Note that a request which began at `began` ended without a byte; return whether this opens it."""
        if self._heard_at is not None and began <= self._heard_at:
            # Another request was answered meanwhile.
            return False
        if self._trial_row == generation_id:
            self._trial_row = None
        self.since = began if self.since is None else min(self.since, began)
        if self.is_open:
            return False
        self._silent_rows.add(generation_id)
        if len(self._silent_rows) < SILENT_ROWS:
            return False
        self._silent_rows.clear()
        self.opened_at, self._next_trial = now, now + TRIAL_SECONDS
        return True
