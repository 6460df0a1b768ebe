"""The nouns: what a row is, what can be observed about its task, what can be decided.

Frozen values only, no behaviour beyond one-line questions; `decide.py` holds the opinions. The `word` of an observation
or a decision is its stable name in metrics, traces and logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

OPEN = ("queued", "generating", "pending", "processing")
"""Statuses in flight; the last two are an older application's words."""

SUCCEEDED = ("success", "completed")
"""Statuses that claim success; `completed` is an older application's word."""


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
    """One result of a task and how far its object in our storage has come.

    `path` is the object's key in the bucket; it is written before the bytes are sent. `version` and `verified_by` are
    the receipt, None until the object was stored and proven. `upload` is the last segment of a resumable upload's
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
        """Whether there is proof that the object is in our storage."""
        return self.verified_by is not None


@dataclass(frozen=True, slots=True)
class Row:
    """A generation as the application wrote it, and what we know of its task.

    First the application's row, since when it has its task (None: it had no other), the tasks that callbacks offer to a
    row without one, newest first, why KIE refused to make one, and whether another task was delivered before this one;
    then our bookkeeping about `task_id`, empty where that has just been replaced.
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
        done = {asset.n for asset in self.assets if asset.stored}
        return bool(self.sources) and done >= set(range(len(self.sources)))


@dataclass(frozen=True, slots=True)
class NotPolled:
    """Nothing has been heard in this visit yet."""

    word: ClassVar[str] = "silence"


@dataclass(frozen=True, slots=True)
class Working:
    """The provider knows the task and has not finished; `begun` once it says that it generates."""

    word: ClassVar[str] = "working"

    state: str
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """The provider calls the task done; `sources` may be empty (a success without output).

    `completed_at` and `duration` are the provider's own figures, None where it gave none.
    """

    word: ClassVar[str] = "ready"

    sources: tuple[str, ...]
    completed_at: datetime | None = None
    duration: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider's own word that the task failed for good."""

    word: ClassVar[str] = "refused"

    message: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class TaskUnknown:
    """The provider answered that it does not know the task (null data, "recordInfo is null", 404)."""

    word: ClassVar[str] = "unknown"

    reason: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No word was had; `reason` is a stable word, `retry_after` in seconds; `asked` is false where nothing was sent."""

    word: ClassVar[str] = "unheard"

    reason: str
    detail: str = ""
    retry_after: float | None = None
    asked: bool = True


@dataclass(frozen=True, slots=True)
class CallbackResult:
    """KIE could not be asked, and the task's callbacks agree on what it brought: their word, not the provider's."""

    word: ClassVar[str] = "told"

    said: Ready
    unheard: Unreachable


@dataclass(frozen=True, slots=True)
class TaskIdentified:
    """The provider's record of an offered task names this generation."""

    word: ClassVar[str] = "identified"

    task_id: str


@dataclass(frozen=True, slots=True)
class TaskNotIdentified:
    """No offered task is known to be this generation's; `heard` is false where KIE could not be asked about one."""

    word: ClassVar[str] = "unidentified"

    reason: str
    heard: bool = True
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The delivery ended: every source is in our storage, proven.

    `unwritten` is the one asset whose receipt is still to be written, beside the success.
    """

    word: ClassVar[str] = "stored"

    assets: tuple[Asset, ...]
    unwritten: Asset | None = None


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """The delivery stopped at some source; what was stored before stays stored.

    `gone` means that an address is dead and must be asked for again; `settled` that repeating alone will not help.
    """

    word: ClassVar[str] = "unstored"

    assets: tuple[Asset, ...]
    stage: str
    reason: str
    detail: str = ""
    gone: bool = False
    settled: bool = False
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
    """Nothing more to do until the row changes; `lost`: what was delivered is gone, and nothing brings it back."""

    word: ClassVar[str] = "leave"

    reason: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the provider for the task's record."""

    word: ClassVar[str] = "ask"


@dataclass(frozen=True, slots=True)
class IdentifyTask:
    """Ask the provider which of the offered tasks is this generation's."""

    word: ClassVar[str] = "identify"


@dataclass(frozen=True, slots=True)
class AttachTask:
    """Write the task's id into the row that has none, and begin again with the row as it then is."""

    word: ClassVar[str] = "adopt"

    task_id: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Bring every source that has no receipt into our storage."""

    word: ClassVar[str] = "deliver"


@dataclass(frozen=True, slots=True)
class Reschedule:
    """Look again at `until`, or from `early` on when a request is to spare; `begun` moves queued to generating.

    `finding` is the stable word under which an operator hears of it, None where nothing is amiss.
    """

    word: ClassVar[str] = "rest"

    until: datetime
    early: datetime
    reason: str
    begun: bool = False
    finding: str | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Write success, the results and the stored addresses."""

    word: ClassVar[str] = "finish"


@dataclass(frozen=True, slots=True)
class Fail:
    """Write failed with this reason; `until` is set when it is our word and not the provider's: then we look again."""

    word: ClassVar[str] = "fail"

    reason: str
    until: datetime | None = None


Decision = Done | Poll | IdentifyTask | AttachTask | Deliver | Reschedule | Finish | Fail


@dataclass(frozen=True, slots=True)
class DurationModel:
    """How long tasks of one model take: the logarithm of the seconds is normal with this mean and spread."""

    mu: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings and the last snapshot allow; `jitter` is a number in [0, 1) drawn by the caller.

    `theta` is the price of one look in seconds of expected waste, `curves` the learned times by model, `spare` whether
    a request may go out at once, `keys` how many keys the ring has.
    """

    give_up_after: timedelta = timedelta(hours=24)
    theta: float = 1.0
    curves: Mapping[str, DurationModel] = field(default_factory=lambda: MappingProxyType({}))
    their_hosts: tuple[str, ...] = ()
    observe: bool = False
    spare: bool = True
    keys: int = 1
    jitter: float = 0.5
