"""The protocol of every dialect; the other files of this folder implement it."""

from collections.abc import Mapping
from typing import Protocol

from reconciler.domain.observations import Observation


class Dialect(Protocol):
    """One format of KIE's records."""

    name: str
    """The stable name, saved with each row."""
    path: str
    """The path of the record below KIE's base address; `?taskId=` is appended."""

    def read(self, record: Mapping[str, object]) -> Observation:
        """Return the observation in a record (the envelope's `data`); no content makes it raise."""
        ...
