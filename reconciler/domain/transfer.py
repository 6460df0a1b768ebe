"""One result on its way into our storage, as a replica reports it and `top` shows it.

The worker makes it, a replica writes it into `reconciler.instances`, the reports read it there, and `top` measures its
rate from two reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

_REPORTED = ("generation_id", "n", "stage", "done", "total", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Result number `n` of a generation; its stage is fetch, store or prove and began `seconds` ago.

    `done` and `total` are bytes of this stage, `total` None while unknown. `instance` is the replica; it is None in a
    replica's own report. `bytes_per_second` is None until it is measured.
    """

    instance: str | None = None
    generation_id: str
    n: int
    stage: str
    done: int = 0
    total: int | None = None
    seconds: float = 0.0
    bytes_per_second: float | None = None

    def to_json(self) -> dict[str, object]:
        """Return what a replica reports."""
        return {name: getattr(self, name) for name in _REPORTED}

    @classmethod
    def from_json(cls, report: Mapping[str, Any], *, instance: str) -> Self:
        """Return what this replica reported; another version's further fields are ignored."""
        return cls(instance=instance, **{name: report[name] for name in _REPORTED})

    def measured(self, earlier: Iterable[Transfer], interval: float) -> Transfer:
        """Return the transfer with its rate, given what was under way `interval` seconds earlier.

        The rate is of that interval where the same stage was under way then, else of the stage since it began.
        """
        for before in earlier:
            same = (before.generation_id, before.n, before.stage) == (self.generation_id, self.n, self.stage)
            if same and before.seconds < self.seconds and before.done <= self.done:
                return replace(self, bytes_per_second=round((self.done - before.done) / interval, 1))
        return replace(self, bytes_per_second=round(self.done / self.seconds, 1) if self.seconds > 0 else None)
