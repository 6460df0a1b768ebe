"""The shape every dialect has; its implementations are the other files of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from reconciler.domain.model import Observation


class Dialect(Protocol):
    """One dialect of KIE's records.

    `name` is kept in the database, `path` is where the record is asked for with `?taskId=`.
    """

    @property
    def name(self) -> str:
        """The stable name, kept per row."""
        ...

    @property
    def path(self) -> str:
        """The address of the records, below KIE's base."""
        ...

    def read(self, record: Mapping[str, object]) -> Observation:
        """What a record (the envelope's `data`) says; never raises, whatever it holds."""
        ...
