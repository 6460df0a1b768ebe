"""The values of the domain: a row, the observations of its task, the decisions about it.

Frozen dataclasses without behaviour; `absorb` adds an observation to a row, `decide` returns a decision.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

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
    KIE's reason for not making a task. `made_again` is true if another task of this row was delivered before.

    The second block is about `task_id` only, and empty where the task was just replaced. `stale` means that the source
    addresses must be asked for again. `polls` counts all polls. `failures`, `unknowns` and `empties` count what came in
    a row: failures, polls after which another key should be tried (unknown task, rejected key), empty successes.
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
    made_again: bool = False

    sources: tuple[str, ...] = ()
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
    reason: str | None = None
    finding: str | None = None
    gave_up: bool = False
    reopened: bool = False

    @property
    def delivered(self) -> bool:
        """Whether every source has a receipt."""
        stored = {asset.n for asset in self.assets if asset.stored}
        return bool(self.sources) and stored >= set(range(len(self.sources)))


@dataclass(frozen=True, slots=True)
class NotPolled:
    """The provider has not been polled in this visit yet."""


@dataclass(frozen=True, slots=True)
class Working:
    """The provider knows the task and has not finished it; `generating` is false while the task is queued."""

    state: str
    generating: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """The provider says that the task succeeded; `sources` may be empty.

    `completed_at` and `duration` are the provider's figures, None if it gave none.
    """

    sources: tuple[str, ...]
    completed_at: datetime | None = None
    duration: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider says that the task failed for good."""

    message: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class TaskUnknown:
    """The provider does not know the task (null data, "recordInfo is null", 404)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The provider gave no usable answer.

    `reason` is a stable word. `retry_after` is in seconds. `request_sent` is false if no request was sent.
    """

    reason: str
    detail: str = ""
    retry_after: float | None = None
    request_sent: bool = True


@dataclass(frozen=True, slots=True)
class CallbackResult:
    """The provider is unreachable, and all callbacks of the task report the same result."""

    ready: Ready
    unreachable: Unreachable


@dataclass(frozen=True, slots=True)
class TaskIdentified:
    """The provider's record of an offered task names this generation."""

    task_id: str


@dataclass(frozen=True, slots=True)
class TaskNotIdentified:
    """No offered task is known to be this generation's; `all_answered` is false if KIE gave no answer about one."""

    reason: str
    all_answered: bool = True
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The delivery ended: every source is verified to be in our storage.

    `unwritten` is the one asset whose receipt is written together with the success.
    """

    assets: tuple[Asset, ...]
    unwritten: Asset | None = None


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """The delivery stopped at one source; the assets stored before stay stored.

    `gone` means that an address is dead and must be asked for again. `permanent` means that a retry alone cannot help.
    """

    assets: tuple[Asset, ...]
    stage: str
    reason: str
    detail: str = ""
    gone: bool = False
    permanent: bool = False
    retry_after: float | None = None


Observation = (
    NotPolled
    | Working
    | Ready
    | Failed
    | TaskUnknown
    | Unreachable
    | CallbackResult
    | TaskIdentified
    | TaskNotIdentified
    | Stored
    | DeliveryFailed
)


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
    """Copy every source that has no receipt into our storage."""


@dataclass(frozen=True, slots=True)
class Reschedule:
    """Visit the row again at `due_at`, or from `earliest` on if the rate limit has a spare request.

    `set_generating` changes status queued to generating. `finding` is the name of the operator's finding, None if there
    is none.
    """

    due_at: datetime
    earliest: datetime
    reason: str
    set_generating: bool = False
    finding: str | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Write success, the results and the stored addresses."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Write failed with this reason; `recheck_at` is set if we gave up ourselves: the task is polled again then."""

    reason: str
    recheck_at: datetime | None = None


Decision = Done | Poll | IdentifyTask | AttachTask | Deliver | Reschedule | Finish | Fail

WORDS: Mapping[type, str] = MappingProxyType(
    {
        NotPolled: "silence", Working: "working", Ready: "ready", Failed: "refused", TaskUnknown: "unknown",
        Unreachable: "unheard", CallbackResult: "told", TaskIdentified: "identified",
        TaskNotIdentified: "unidentified", Stored: "stored", DeliveryFailed: "unstored", Done: "leave", Poll: "ask",
        IdentifyTask: "identify", AttachTask: "adopt", Deliver: "deliver", Reschedule: "rest", Finish: "finish",
        Fail: "fail",
    }
)  # fmt: skip
"""The stable names of observations and decisions in metrics, traces and logs."""


@dataclass(frozen=True, slots=True)
class DurationModel:
    """How long tasks of one model take: a log-normal distribution of seconds."""

    mu: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings and the present load allow.

    `poll_price` is the cost of one poll in seconds of expected waste. `duration_models` are the learned ones, by model
    name. `spare_request` is true if the rate limit allows a request now. `key_count` is the number of API keys.
    `jitter` is a number in [0, 1) that the caller draws.
    """

    give_up_after: timedelta = timedelta(hours=24)
    poll_price: float = 1.0
    duration_models: Mapping[str, DurationModel] = field(default_factory=lambda: MappingProxyType({}))
    provider_hosts: tuple[str, ...] = ()
    observe: bool = False
    spare_request: bool = True
    key_count: int = 1
    jitter: float = 0.5
