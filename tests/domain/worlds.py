"""Hypothesis strategies for rows, observations and policies, and a simulated visit of one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from reconciler.domain.absorb import absorb
from reconciler.domain.decide import decide
from reconciler.domain.failures.series import FailureSeries
from reconciler.domain.model import (
    OPEN,
    SUCCEEDED,
    Asset,
    AttachTask,
    Decision,
    Deliver,
    Done,
    DurationModel,
    Fail,
    Finish,
    IdentifyTask,
    Policy,
    Poll,
    Reschedule,
    Result,
    Row,
)
from reconciler.domain.object_keys import AddressRules
from reconciler.domain.observations import (
    CallbackResult,
    DeliveryFailed,
    DeliveryPostponed,
    Failed,
    NotPolled,
    Observation,
    Ready,
    Stored,
    TaskIdentified,
    TaskNotIdentified,
    TaskUnknown,
    Unreachable,
    Unreadable,
    Working,
)
from reconciler.domain.results import from_addresses

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
OURS = "https://ours.supabase.co/storage/v1/object/public/generations/u/image/g_0.png"
THEIRS = "https://tempfile.aiquickdraw.com/r/a.png"
UNREACHABLE_REASONS = (
    "timeout", "network", "not_json", "too_large", "unauthorized", "no_credits", "forbidden", "key_capped",
    "rate_limited", "maintenance", "http_5xx", "unknown_state", "host_unlisted",
)  # fmt: skip


def row_in_flight(**facts: object) -> Row:
    """Return a row in flight, ten minutes old and polled once; `facts` replace its columns.

    `sources` stands for one result for each address.
    """
    known: dict[str, object] = {
        "id": "g",
        "user_id": "u",
        "task_id": "t",
        "status": "generating",
        "kind": "image",
        "model": "m",
        "asset_url": None,
        "created_at": NOW - timedelta(minutes=10),
        "polls": 1,
    }
    if "sources" in facts:
        facts["results"] = from_addresses(facts.pop("sources"))  # type: ignore[arg-type]
    return Row(**(known | facts))  # type: ignore[arg-type]


def asset(n: int, *, stored: bool = True) -> Asset:
    receipt = "etag-md5" if stored else None
    return Asset(n, f"u/image/g_{n}.png", "image/png", 9, "5" * 64, "d" * 32, version=receipt, verified_by=receipt)


def stored(*numbers: int) -> Stored:
    return Stored(tuple(asset(n) for n in numbers))


def ago(longest: timedelta) -> st.SearchStrategy[datetime]:
    return st.timedeltas(timedelta(), longest).map(lambda age: NOW - age)


ADDRESSES = [f"https://file.aiquickdraw.com/{n}.png" for n in range(4)]
ENTRIES = st.lists(st.none() | st.sampled_from(ADDRESSES) | st.just("words"), max_size=4)


def as_results(entries: list[str | None]) -> tuple[Result, ...]:
    """Return a result for each entry: an address, a hole for None, words for any other text."""
    return tuple(
        Result(f"#{n}", n)
        if entry is None
        else Result(f"#{n}", n, (entry,))
        if entry in ADDRESSES
        else Result(f"#{n}", n, text=entry, mime="text/plain")
        for n, entry in enumerate(entries)
    )


RESULTS = ENTRIES.map(as_results)
ASSETS = st.lists(st.booleans(), max_size=4).map(
    lambda done: tuple(asset(n, stored=is_done) for n, is_done in enumerate(done))
)
SPAN = st.timedeltas(timedelta(), timedelta(hours=2))
FAILING = st.sampled_from([(), (FailureSeries("kie", 4, NOW, "KIE: timeout"),)])


def rows(oldest: timedelta = timedelta(days=60), **facts: st.SearchStrategy[object]) -> st.SearchStrategy[Row]:
    """Generate any row, also those that only a crash or another version can leave behind."""
    known: dict[str, st.SearchStrategy[object]] = {
        "id": st.just("g"),
        "user_id": st.none() | st.just("u"),
        "task_id": st.none() | st.just("t"),
        "status": st.sampled_from([*OPEN, *SUCCEEDED, "failed", "cancelled", "archived"]),
        "kind": st.sampled_from([None, "image", "video", "odd"]),
        "model": st.sampled_from([None, "m", "other"]),
        "asset_url": st.sampled_from([None, "", OURS, THEIRS]),
        "created_at": ago(oldest) | st.just(NOW + timedelta(hours=1)),
        "task_since": st.none() | ago(oldest),
        "offered": st.sampled_from([(), ("t",), ("t", "other")]),
        "another_task": st.booleans(),
        "results": RESULTS,
        "stale": st.booleans(),
        "assets": ASSETS,
        "acknowledged_at": st.none() | ago(oldest),
        "answered_at": st.none() | ago(timedelta(hours=3)),
        "completed_at": st.none() | ago(oldest),
        "duration": st.none() | SPAN,
        "media_deadline": st.none() | ago(oldest),
        "polled_at": st.none() | ago(oldest),
        "polls": st.integers(0, 9),
        "failures": st.integers(0, 40),
        "unknowns": st.integers(0, 9),
        "empties": st.integers(0, 5),
        "failing_since": st.none() | ago(timedelta(hours=1)),
        "failing": FAILING,
        "empty_since": st.none() | ago(timedelta(hours=1)),
        "empty_counted_at": st.none() | ago(timedelta(hours=1)),
        "missing_since": st.none() | ago(timedelta(hours=1)),
        "contradiction": st.none() | st.just("refused (501)"),
        "shown": st.none() | st.integers(0, 4),
        "reason": st.none() | st.just("as it was"),
        "finding": st.none() | st.just("parked"),
        "gave_up": st.booleans(),
        "reopened": st.booleans(),
    }
    return st.builds(Row, **(known | facts))


RETRY_AFTERS = st.none() | st.floats(0, 1e9)
WORKING = st.builds(Working, st.sampled_from(["waiting", "queuing", "generating"]), st.booleans())
READY = st.builds(Ready, RESULTS, st.none() | ago(timedelta(days=60)), st.none() | SPAN)
UNREADABLE = st.builds(Unreadable, st.just(("resultJson.text",)), st.none() | ago(timedelta(days=60)))
FAILED = st.builds(Failed, st.just("prohibited"), st.none() | st.just("400"))
TASK_UNKNOWN = st.builds(TaskUnknown, st.sampled_from(["null_data", "recordInfo is null", "http_404"]))
UNREACHABLE = st.builds(Unreachable, st.sampled_from(UNREACHABLE_REASONS), st.just("") | st.just("words"), RETRY_AFTERS)
NOT_SENT = st.builds(Unreachable, st.just("rate_limited"), st.just("the key rests"), RETRY_AFTERS, st.just(False))
CALLBACK_RESULT = st.builds(CallbackResult, READY, UNREACHABLE)
IDENTIFIED = st.builds(TaskIdentified, st.just("t"))
NOT_IDENTIFIED = st.builds(TaskNotIdentified, st.just("KIE does not know t"), st.booleans(), RETRY_AFTERS)
DELIVERY_FAILED = st.builds(
    DeliveryFailed,
    ASSETS,
    st.sampled_from(["fetch", "store", "prove"]),
    st.sampled_from(["timeout", "host_unlisted", "bucket_refuses_type", "proof_failed", "http_404"]),
    gone=st.booleans(),
    permanent=st.booleans(),
    retry_after=RETRY_AFTERS,
)
POSTPONED = st.builds(
    DeliveryPostponed, ASSETS, st.sampled_from(["no_room", "host_silent"]), st.just("words"), st.floats(0, 1e9)
)
STORED = st.builds(Stored, ASSETS)
OBSERVATIONS = st.one_of(
    st.just(NotPolled()),
    WORKING,
    READY,
    UNREADABLE,
    FAILED,
    TASK_UNKNOWN,
    UNREACHABLE,
    NOT_SENT,
    CALLBACK_RESULT,
    IDENTIFIED,
    NOT_IDENTIFIED,
    DELIVERY_FAILED,
    POSTPONED,
    STORED,
)

POLICIES = st.builds(
    Policy,
    give_up_after=st.sampled_from([timedelta(minutes=10), timedelta(hours=24), timedelta(days=30)]),
    poll_price=st.floats(0, 1e4),
    duration_models=st.just({}) | st.just({"m": DurationModel(3.0, 0.3)}),
    address_rules=st.sampled_from([AddressRules(hosts) for hosts in ((), ("*",), ("example.com",))]),
    observe=st.booleans(),
    spare_request=st.booleans(),
    jitter=st.floats(0, 1, exclude_max=True),
)

NO_JITTER = Policy(jitter=0.0)

Answer = Callable[[Row], Observation]


@dataclass(frozen=True, slots=True)
class World:
    """What a poll, a delivery and the identification of an offered task answer for a row."""

    poll: Answer
    deliver: Answer
    identify: Answer = lambda row: TaskIdentified(row.offered[0])


def always(poll: Observation, delivery: Observation, identification: Observation | None = None) -> World:
    """Return a world in which every poll and every delivery ends the same way."""
    return World(lambda _: poll, lambda _: delivery, lambda row: identification or TaskIdentified(row.offered[0]))


def visit(row: Row, world: World, now: datetime, policy: Policy) -> Iterator[tuple[Row, Observation, Decision]]:
    """Yield the row, the observation and the decision of every step of one visit; it ends like a real one."""
    observation: Observation = NotPolled()
    while True:
        row = absorb(row, observation, now)
        decision = decide(row, observation, now, policy)
        yield row, observation, decision
        match decision:
            case Poll():
                observation = world.poll(row)
            case IdentifyTask():
                observation = world.identify(row)
            case Deliver():
                observation = world.deliver(row)
            case _:
                return


def row_after_write(row: Row, decision: Decision) -> tuple[Row, datetime | None]:
    """Return the row as the ledger writes it, and when it is visited again; None: never by itself."""
    match decision:
        case Finish(recheck_at):
            shown = len(row.stored)
            return replace(row, status="success", asset_url=OURS, gave_up=False, shown=shown), recheck_at
        case Fail(reason, recheck_at):
            return replace(row, status="failed", gave_up=recheck_at is not None, reason=reason), recheck_at
        case Reschedule():
            status = "generating" if decision.set_generating else row.status
            return replace(row, status=status, reason=decision.reason, finding=decision.finding), decision.due_at
        case AttachTask(task_id):
            # The visit starts again at once, with the row read again.
            status = "generating" if row.status == "queued" else row.status
            return replace(row, task_id=task_id, status=status, offered=()), row.polled_at
        case Done(reason):
            return replace(row, reason=reason), None
        case _:
            raise AssertionError(f"{decision} ends no visit")


def after(row: Row, *observations: Observation, policy: Policy = NO_JITTER) -> tuple[Row, Decision]:
    """Return the row and the decision after the last of these observations."""
    decision: Decision = Done("no observation")
    for observation in observations:
        row = absorb(row, observation, NOW)
        decision = decide(row, observation, NOW, policy)
    return row, decision


def wait(decision: Decision) -> timedelta:
    """Return the time until a rescheduled row is due."""
    assert isinstance(decision, Reschedule)
    return decision.due_at - NOW
