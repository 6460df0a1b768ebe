"""Observations of answers as tests write them: a success by its addresses alone."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from reconciler.domain.observations import Ready
from reconciler.domain.results import from_addresses


def ready(
    addresses: Iterable[str] = (), completed_at: datetime | None = None, duration: timedelta | None = None
) -> Ready:
    """Return the success with one result for each address."""
    return Ready(from_addresses(addresses), completed_at, duration)
