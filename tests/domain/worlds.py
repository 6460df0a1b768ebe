"""Arbitrary rows, observations and limits, and a world in which a row is visited until it rests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from reconciler.domain.absorb import absorb
from reconciler.domain.decide import decide
from reconciler.domain.model import (
    OPEN,
    SUCCEEDED,
    Asset,
    AttachTask,
    CallbackResult,
    Decision,
    Deliver,
    DeliveryFailed,
    Done,
    DurationModel,
    Fail,
    Failed,
    Finish,
    IdentifyTask,
    NotPolled,
    Observation,
    Policy,
    Poll,
    Ready,
    Reschedule,
    Row,
    Stored,
    TaskIdentified,
    TaskNotIdentified,
    TaskUnknown,
    Unreachable,
    Working,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
OURS = "https://ours.supabase.co/storage/v1/object/public/generations/u/image/g_0.png"
THEIRS = "https://tempfile.aiquickdraw.com/r/a.png"
DEAF = (
    "timeout", "network", "not_json", "too_large", "unauthorized", "no_credits", "forbidden", "key_capped",
    "rate_limited", "maintenance", "http_5xx", "unknown_state", "host_unlisted",
)  # fmt: skip


def row_in_flight(**facts: object) -> Row:
    """A row in flight, ten minutes old, asked about once; anything else as told."""
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
    return Row(**(known | facts))  # type: ignore[arg-type]


def asset(n: int, *, stored: bool = True) -> Asset:
    proof = "etag-md5" if stored else None
    return Asset(n, f"u/image/g_{n}.png", "image/png", 9, "5" * 64, "d" * 32, version=proof, verified_by=proof)


def stored(many: int) -> Stored:
    return Stored(tuple(asset(n) for n in range(many)))


def ago(longest: timedelta) -> st.SearchStrategy[datetime]:
    return st.timedeltas(timedelta(), longest).map(lambda age: NOW - age)


SOURCES = st.lists(st.sampled_from([f"https://file.aiquickdraw.com/{n}.png" for n in range(4)]), max_size=4).map(tuple)
ASSETS = st.lists(st.booleans(), max_size=4).map(
    lambda done: tuple(asset(n, stored=is_done) for n, is_done in enumerate(done))
)
SPAN = st.timedeltas(timedelta(), timedelta(hours=2))


def rows(oldest: timedelta = timedelta(days=60), **facts: st.SearchStrategy[object]) -> st.SearchStrategy[Row]:
    """Any row, also those that only a crash or another version can have left behind."""
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
        "sources": SOURCES,
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
        "empties": st.integers(0, 2),
        "reason": st.none() | st.just("as it was"),
        "finding": st.none() | st.just("parked"),
        "gave_up": st.booleans(),
        "reopened": st.booleans(),
    }
    return st.builds(Row, **(known | facts))


WAITS = st.none() | st.floats(0, 1e9)
WORKING = st.builds(Working, st.sampled_from(["waiting", "queuing", "generating"]), st.booleans())
READY = st.builds(Ready, SOURCES, st.none() | ago(timedelta(days=60)), st.none() | SPAN)
REFUSED = st.builds(Failed, st.just("prohibited"), st.none() | st.just("400"))
UNKNOWN = st.builds(TaskUnknown, st.sampled_from(["null_data", "recordInfo is null", "http_404"]))
UNHEARD = st.builds(Unreachable, st.sampled_from(DEAF), st.just("") | st.just("words"), WAITS)
UNASKED = st.builds(Unreachable, st.just("rate_limited"), st.just("the key rests"), WAITS, st.just(False))
TOLD = st.builds(CallbackResult, READY, UNHEARD)
IDENTIFIED = st.builds(TaskIdentified, st.just("t"))
UNIDENTIFIED = st.builds(TaskNotIdentified, st.just("KIE does not know t"), st.booleans(), WAITS)
UNSTORED = st.builds(
    DeliveryFailed,
    ASSETS,
    st.sampled_from(["fetch", "store", "prove"]),
    st.sampled_from(["timeout", "host_unlisted", "bucket_refuses_type", "proof_failed", "http_404"]),
    gone=st.booleans(),
    settled=st.booleans(),
    retry_after=WAITS,
)
STORED = st.builds(Stored, ASSETS)
OBSERVATIONS = st.one_of(
    st.just(NotPolled()),
    WORKING,
    READY,
    REFUSED,
    UNKNOWN,
    UNHEARD,
    UNASKED,
    TOLD,
    IDENTIFIED,
    UNIDENTIFIED,
    UNSTORED,
    STORED,
)

LIMITS = st.builds(
    Policy,
    give_up_after=st.sampled_from([timedelta(minutes=10), timedelta(hours=24), timedelta(days=30)]),
    theta=st.floats(0, 1e4),
    curves=st.just({}) | st.just({"m": DurationModel(3.0, 0.3)}),
    their_hosts=st.sampled_from([(), ("*",), ("example.com",)]),
    observe=st.booleans(),
    spare=st.booleans(),
    jitter=st.floats(0, 1, exclude_max=True),
)

CALM = Policy(jitter=0.0)

Answer = Callable[[Row], Observation]


@dataclass(frozen=True, slots=True)
class World:
    """What KIE says when asked about the row's task and about offered ones, and how a delivery ends."""

    asked: Answer
    delivered: Answer
    identified: Answer = lambda row: TaskIdentified(row.offered[0])


def always(answer: Observation, end: Observation, whose: Observation | None = None) -> World:
    return World(lambda _: answer, lambda _: end, lambda row: whose or TaskIdentified(row.offered[0]))


def visit(row: Row, world: World, now: datetime, limits: Policy) -> Iterator[tuple[Row, Observation, Decision]]:
    """One pass of a visit: every row, what was seen, what was decided; it ends at the first end, or at AttachTask."""
    seen: Observation = NotPolled()
    while True:
        row = absorb(row, seen, now)
        decision = decide(row, seen, now, limits)
        yield row, seen, decision
        match decision:
            case Poll():
                seen = world.asked(row)
            case IdentifyTask():
                seen = world.identified(row)
            case Deliver():
                seen = world.delivered(row)
            case _:
                return


def written(row: Row, decision: Decision) -> tuple[Row, datetime | None]:
    """The row as the ledger leaves it, and when it is looked at again; None = never by itself."""
    match decision:
        case Finish():
            return replace(row, status="success", asset_url=OURS, gave_up=False), None
        case Fail(reason, until):
            return replace(row, status="failed", gave_up=until is not None, reason=reason), until
        case Reschedule():
            status = "generating" if decision.begun else row.status
            return replace(row, status=status, reason=decision.reason, finding=decision.finding), decision.until
        case AttachTask(task_id):
            # The visit begins again at once, with the row read anew.
            status = "generating" if row.status == "queued" else row.status
            return replace(row, task_id=task_id, status=status, offered=()), row.polled_at
        case Done(why):
            return replace(row, reason=why), None
        case _:
            raise AssertionError(f"{decision} ends no visit")


def after(row: Row, *seen: Observation, limits: Policy = CALM) -> tuple[Row, Decision]:
    """What is decided at the last of some observations."""
    decision: Decision = Done("nothing seen")
    for each in seen:
        row = absorb(row, each, NOW)
        decision = decide(row, each, NOW, limits)
    return row, decision


def rest(decision: Decision) -> timedelta:
    assert isinstance(decision, Reschedule)
    return decision.until - NOW
