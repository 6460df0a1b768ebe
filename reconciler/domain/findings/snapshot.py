"""The figures of the whole table at one moment, from which the findings follow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from reconciler.domain.failures.series import Side

_NO_COUNTS: Mapping[str, int] = MappingProxyType({})
_NOBODY_FAILS: "Mapping[Side, FailingSide]" = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class FailingSide:
    """The rows that one side has failed several times in a row: how many, and the seconds since the first failure.

    `reason` is the sentence that most of them rest with, without secrets; `hosts` are those of their results. Without
    rows, a check has found the failure.
    """

    rows: int
    seconds: float = 0.0
    reason: str = ""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The figures of the whole table at one moment; ages are in seconds.

    `canary_age` and `sweep_age` count from the last canary that came back and the last sweep that ended, or from the
    start of the process. `failing` has the sides that fail rows again and again (`failures/series.py`). `expiring`
    counts undelivered results past half of their address's life. `waiting` counts rows by the finding they are
    rescheduled with. `unannounced` and `events_dead` count events not yet sent and given up; without a receiver both
    are zero. `overdue` counts rows that are due and unclaimed: they wait for the rate limit. `lost` counts delivered
    results that were found gone for good within the last day. `hooks` counts what waits for a hook of the application
    that fails, by its name: orders that were refused since it last worked, deliveries that it was not told of.
    `table_trouble` says why the application's table cannot be used; then there are no figures of it. `replicas_lost`
    names those that ended within the last hour without signing off, while none was started on their host since.
    `clock_ahead` is by how many seconds the database's clock is ahead of that of `host`, this machine; `step_age` is
    the age of the last step of the database's clock.
    """

    in_flight: Mapping[str, int]
    canary_age: float
    sweep_age: float
    listening: bool
    oldest: float | None = None
    stuck: int = 0
    failing: Mapping[Side, FailingSide] = field(default_factory=lambda: _NOBODY_FAILS)
    expiring: int = 0
    media_deadline: float | None = None
    waiting: Mapping[str, int] = field(default_factory=lambda: _NO_COUNTS)
    unlisted_hosts: tuple[str, ...] = ()
    keys_rejected: int = 0
    keys_unpaid: int = 0
    bucket_closed: int = 0
    transaction_pooler: bool = False
    schema_behind: int = 0
    unannounced: int = 0
    unannounced_age: float = 0.0
    events_dead: int = 0
    queue_usage: float = 0.0
    instances: int = 1
    polls_per_delivery: float | None = None
    overdue: int = 0
    lost: int = 0
    hooks: Mapping[str, int] = field(default_factory=lambda: _NO_COUNTS)
    table_trouble: str | None = None
    replicas_lost: tuple[str, ...] = ()
    host: str = ""
    clock_ahead: float = 0.0
    step_age: float | None = None
