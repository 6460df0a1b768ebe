"""The values of the domain: a row, its results and assets, the decisions about it. `observations` has the others.

Frozen dataclasses without behaviour; `absorb` adds an observation to a row, `decide` returns a decision.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from reconciler.domain.failures.series import FailureSeries
from reconciler.domain.object_keys import AddressRules

OPEN = ("queued", "generating", "pending", "processing")
"""The statuses of rows in flight; older applications write the last two."""

SUCCEEDED = ("success", "completed")
"""The statuses that mean success; older applications write `completed`."""


class Trigger(StrEnum):
    """Why a visit began."""

    NOTIFY = "notify"
    CALLBACK = "callback"
    POLL = "poll"
    SYNC = "sync"
    SWEEP = "sweep"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class Result:
    """One result that KIE announced for a task.

    `n` is the number of its object in our storage and identifies it; `key` is KIE's own id of it, else its position in
    the list ("#0"). `addresses` are alternatives, the best first. `text` is a document inside KIE's answer; `mime` is
    its media type, or the type announced for the addresses. A result with neither is a hole: it has not arrived yet.
    `current` is false if KIE's latest answer does not give it any more, `confirmed` if only a callback has named it.
    """

    key: str
    n: int
    addresses: tuple[str, ...] = ()
    text: str | None = None
    mime: str | None = None
    current: bool = True
    confirmed: bool = True

    @property
    def available(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.addresses) or self.text is not None


@dataclass(frozen=True, slots=True)
class Asset:
    """One result of a task, and the state of its object in our storage.

    `path` is the object's key in the bucket; it is saved before any byte is sent. `version` and `verified_by` are the
    receipt, None until the object is stored and verified. `upload` is the last path segment of a resumable upload's
    address.
    """

    n: int
    path: str
    mime: str
    size: int
    sha256: str
    md5: str
    upload: str | None = None
    version: str | None = None
    verified_by: str | None = None

    @property
    def stored(self) -> bool:
        """Whether the object is verified to be in our storage."""
        return self.verified_by is not None


@dataclass(frozen=True, slots=True)
class Row:
    """A generation: the application's row, and our bookkeeping about its task.

    The first block is the application's row. `task_since` is when the row got its present task, None if it never had
    another. `offered` lists the tasks that callbacks name for a row without a task, newest first. `create_refusal` is
    KIE's reason for not making a task. `asset_is_result` is true if asset_url is one of its result_urls, or of the
    addresses that KIE gave for its task. `made_again` is true if another task of this row was delivered before,
    `another_task` if the row had another task before.

    The second block is about `task_id` only, and empty where the task was just replaced. `results` are in KIE's order.
    `stale` means that their addresses must be asked for again. `polls` counts all polls. `failures` and `unknowns`
    count what came in a row: failures, polls after which another key should be tried (unknown task, rejected key).
    `empties` counts the successes without any output that came in a row, two minutes apart at least. The times
    `failing_since`, `empty_since` and `missing_since` say when such a series began; `empty_counted_at` is the time of
    the last empty success that counted. `contradiction` is a failure that KIE reports beside results. `shown` is
    how many results the success shows that we wrote, None before. `failing` are the series of failures by the side that
    failed; `failures` counts all of them together. `healed_at` are the times of the last day when we wrote our address
    again because the application had replaced it by one at the provider. `locked_write` is a write that waits for a
    lock of the application, None where none does.
    """

    id: str
    user_id: str | None
    task_id: str | None
    status: str
    kind: str | None
    model: str | None
    asset_url: str | None
    created_at: datetime
    task_since: datetime | None = None
    offered: tuple[str, ...] = ()
    create_refusal: str | None = None
    asset_is_result: bool = False
    preview_url: str | None = None
    made_again: bool = False
    another_task: bool = False

    results: tuple[Result, ...] = ()
    stale: bool = False
    assets: tuple[Asset, ...] = ()
    key_hash: str | None = None
    family: str | None = None
    acknowledged_at: datetime | None = None
    answered_at: datetime | None = None
    completed_at: datetime | None = None
    duration: timedelta | None = None
    media_deadline: datetime | None = None
    polled_at: datetime | None = None
    polls: int = 0
    failures: int = 0
    unknowns: int = 0
    empties: int = 0
    failing_since: datetime | None = None
    empty_since: datetime | None = None
    empty_counted_at: datetime | None = None
    missing_since: datetime | None = None
    contradiction: str | None = None
    reason: str | None = None
    finding: str | None = None
    gave_up: bool = False
    reopened: bool = False
    shown: int | None = None
    failing: tuple[FailureSeries, ...] = ()
    healed_at: tuple[datetime, ...] = ()
    locked_write: "LockedWrite | None" = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the first address of every result that has one, in KIE's order."""
        return tuple(result.addresses[0] for result in self.results if result.addresses)

    @property
    def stored(self) -> tuple[Result, ...]:
        """Return the results that have a receipt, in KIE's order."""
        numbers = self._stored_numbers()
        return tuple(result for result in self.results if result.n in numbers)

    @property
    def unstored(self) -> tuple[Result, ...]:
        """Return the results that can be stored and have no receipt, in KIE's order."""
        numbers = self._stored_numbers()
        return tuple(result for result in self.results if result.available and result.n not in numbers)

    @property
    def missing(self) -> tuple[Result, ...]:
        """Return the results that KIE has announced and not given yet, in KIE's order."""
        numbers = self._stored_numbers()
        return tuple(result for result in self.results if not result.available and result.n not in numbers)

    @property
    def delivered(self) -> bool:
        """Whether there are results and every one has a receipt."""
        return bool(self.results) and len(self.stored) == len(self.results)

    def _stored_numbers(self) -> frozenset[int]:
        return frozenset(asset.n for asset in self.assets if asset.stored)


@dataclass(frozen=True, slots=True)
class Done:
    """Do nothing until the row changes; `lost` means that a delivered object is gone and KIE no longer has it."""

    reason: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Poll:
    """Request the task's record from the provider."""


@dataclass(frozen=True, slots=True)
class IdentifyTask:
    """Request the records of the offered tasks, to find the one that was made for this generation."""


@dataclass(frozen=True, slots=True)
class AttachTask:
    """Write this task's id into the row that has none, and start the visit again with that row."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Copy every available result that has no receipt into our storage."""


@dataclass(frozen=True, slots=True)
class Reschedule:
    """Visit the row again at `due_at`, or from `earliest` on if the rate limit has a spare request.

    `set_generating` changes status queued to generating. `finding` is the name of the operator's finding, None if there
    is none. `locked_write` is tried again at `write_at`, without a visit.
    """

    due_at: datetime
    earliest: datetime
    reason: str
    set_generating: bool = False
    finding: str | None = None
    locked_write: "LockedWrite | None" = None
    write_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Write success, the results and the stored addresses.

    `recheck_at` is set if results are missing: the task is polled again then.
    """

    recheck_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """Write failed with this reason; `recheck_at` is set if we gave up ourselves: the task is polled again then."""

    reason: str
    recheck_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LockedWrite:
    """A decision that could not be written because another session held a lock, and the row that it is about.

    It counts only while the row has this task, status and number of polls. `since` is when the lock was first not
    given, `tries` how often it was not given since.
    """

    decision: "AttachTask | Finish | Fail"
    task_id: str | None
    status: str
    polls: int
    since: datetime
    tries: int = 1


Decision = Done | Poll | IdentifyTask | AttachTask | Deliver | Reschedule | Finish | Fail


@dataclass(frozen=True, slots=True)
class DurationModel:
    """How long tasks of one model take: a log-normal distribution of seconds."""

    mu: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings and the present load allow.

    `poll_price` is the cost of one poll in seconds of expected waste. `duration_models` are the learned ones, by model
    name. `spare_request` is true if the rate limit allows a request now. `key_count` is the number of API keys. A task
    with more than `max_results` results waits until the operator allows more. `clock_trusted` is true if the clock is
    known to run evenly: otherwise nothing that cannot be taken back is concluded from elapsed time.
    `clock_stepped_at` is when the clock last stepped, None if it is not known to have: time counts from then at most.
    `jitter` is a number in [0, 1) that the caller draws.
    """

    give_up_after: timedelta = timedelta(hours=24)
    poll_price: float = 1.0
    duration_models: Mapping[str, DurationModel] = field(default_factory=lambda: MappingProxyType({}))
    address_rules: AddressRules = field(default_factory=AddressRules)
    observe: bool = False
    spare_request: bool = True
    key_count: int = 1
    max_results: int = 200
    clock_trusted: bool = True
    clock_stepped_at: datetime | None = None
    jitter: float = 0.5
