"""What a visit has learned: the observations of KIE's answers and of deliveries. Pure.

The poller and the deliverer make them, `absorb` keeps their facts, `decide` answers them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from reconciler.domain.model import (
    Asset,
    AttachTask,
    Deliver,
    Done,
    Fail,
    Finish,
    IdentifyTask,
    Poll,
    Reschedule,
    Result,
)


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
    """The provider says that the task succeeded; `results` may be empty, or hold holes.

    `completed_at` and `duration` are the provider's figures, None if it gave none. `contradiction` is the failure that
    the same record reports.
    """

    results: tuple[Result, ...]
    completed_at: datetime | None = None
    duration: timedelta | None = None
    contradiction: str | None = None

    @property
    def available(self) -> bool:
        """Whether at least one result can be stored."""
        return any(result.available for result in self.results)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The provider says that the task succeeded, with output that we cannot read; `fields` name where it is."""

    fields: tuple[str, ...]
    completed_at: datetime | None = None


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

    `reason` is a stable word. `retry_after` is in seconds. `request_sent` is false if no request was sent. If that is
    because this page of the provider is silent, `silent_for` is the time in seconds since its first unanswered request.
    """

    reason: str
    detail: str = ""
    retry_after: float | None = None
    request_sent: bool = True
    silent_for: float | None = None


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
    """The delivery ended: every available result is verified to be in our storage.

    The receipt of `unwritten` is not written yet: it is written in the transaction of the success.
    """

    assets: tuple[Asset, ...]
    unwritten: Asset | None = None


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """The delivery stopped at result number `n`; the assets stored before stay stored.

    `gone` means that an address is dead and must be asked for again. `permanent` means that a retry alone cannot help.
    """

    assets: tuple[Asset, ...]
    stage: str
    reason: str
    detail: str = ""
    n: int | None = None
    gone: bool = False
    permanent: bool = False
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class DeliveryPostponed:
    """Nothing was tried for want of a slot, or because the result's host says nothing; nothing has failed.

    The row comes again after `wait` seconds. `reason` is a stable word.
    """

    assets: tuple[Asset, ...]
    reason: str
    detail: str
    wait: float


Observation = (
    NotPolled
    | Working
    | Ready
    | Unreadable
    | Failed
    | TaskUnknown
    | Unreachable
    | CallbackResult
    | TaskIdentified
    | TaskNotIdentified
    | Stored
    | DeliveryFailed
    | DeliveryPostponed
)

WORDS: Mapping[type, str] = MappingProxyType(
    {
        NotPolled: "silence", Working: "working", Ready: "ready", Unreadable: "unreadable", Failed: "refused",
        TaskUnknown: "unknown", Unreachable: "unheard", CallbackResult: "told", TaskIdentified: "identified",
        TaskNotIdentified: "unidentified", Stored: "stored", DeliveryFailed: "unstored",
        DeliveryPostponed: "postponed", Done: "leave", Poll: "ask", IdentifyTask: "identify", AttachTask: "adopt",
        Deliver: "deliver", Reschedule: "rest", Finish: "finish", Fail: "fail",
    }
)  # fmt: skip
"""The stable names of observations and decisions in metrics, traces and logs."""
