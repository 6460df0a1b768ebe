"""Where a generation is at this moment: its state, the cause in a sentence, and what a person does about it.

Pure: details and settings in, a diagnosis out. `explain.py` calls it, for the commands `explain` and `stuck`. What a
reason means is in `wait_reasons.py`.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from reconciler.domain.findings.findings import format_seconds
from reconciler.domain.model import SUCCEEDED
from reconciler.domain.transfer import Transfer
from reconciler.operations.wait_reasons import Meaning, meaning
from reconciler.postgres.reports.generation_details import Bookkeeping, GenerationDetails
from reconciler.settings import Settings


class State(StrEnum):
    """Where a generation is; a generation is in exactly one state."""

    DELIVERED = "delivered"
    DELIVERED_IN_PART = "delivered_in_part"
    LOST = "lost"
    FAILED = "failed"
    LEFT_TO_APPLICATION = "left_to_application"
    FETCHING = "fetching"
    STORING = "storing"
    VERIFYING = "verifying"
    ASKING = "asking"
    VISITED = "visited"
    HOLDER_SILENT = "holder_silent"
    HOLDER_UNLISTED = "holder_unlisted"
    OTHER_PROVIDER = "other_provider"
    OTHER_TASK_ID = "other_task_id"
    NO_REPLICA = "no_replica"
    LEASE_ENDED = "lease_ended"
    UNSEEN = "unseen"
    LOCKED = "locked"
    UNPLANNED = "unplanned"
    GAVE_UP = "gave_up"
    ORDER_UNKNOWN = "order_unknown"
    FIRST_LOOK = "first_look"
    PARKED = "parked"
    WORKING = "working"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of a generation, its cause and its remedy; the cause repeats the last attempt's own words."""

    state: State
    cause: str
    remedy: str


_NOTHING = "Nothing."


def diagnose(details: GenerationDetails, settings: Settings, *, at_rest: bool, left_alone: str) -> Diagnosis:
    """Return where the generation is; every generation has a state, a cause and a remedy.

    `at_rest` is whether nothing more happens to it by itself, `left_alone` why no replica visits it, empty where one
    does.
    """
    if at_rest:
        return _ended(details)
    if details.held:
        return _held(details, settings)
    if left_alone:
        return _excluded(details, left_alone)
    if not details.replicas:
        said = _said(details)
        return Diagnosis(
            State.NO_REPLICA,
            f"No replica of the daemon is alive, so nothing visits it.{f' The last attempt: {said}' if said else ''}",
            "Start one: `kie-reconciler run`, or `systemctl start kie-reconciler`.",
        )
    return _waiting(details, settings)


def _ended(details: GenerationDetails) -> Diagnosis:
    row = details.generation
    if row.status in SUCCEEDED and details.events and details.events[-1].kind == "lost":
        return Diagnosis(
            State.LOST,
            "Storage lost the object, and KIE no longer has it.",
            f"Restore {row.asset_url} from a backup of the storage.",
        )
    if row.status in SUCCEEDED and details.partial:
        return Diagnosis(
            State.DELIVERED_IN_PART,
            "It is delivered without the results that KIE never gave.",
            f"Nothing by itself; ask KIE's support with the task {row.task_id}.",
        )
    if row.status in SUCCEEDED:
        proven = "Every result is stored and proven." if details.receipts else "Its asset_url is not at the provider."
        return Diagnosis(State.DELIVERED, f"It is delivered. {proven}", _NOTHING)
    if row.status == "failed":
        reason = row.error or (details.known.why if details.known else None) or "no reason was written"
        remedy = f"Nothing; if it should have succeeded, `kie-reconciler retry {row.id}` asks KIE once more."
        return Diagnosis(State.FAILED, f"It failed: {_sentence(reason)}", remedy)
    return Diagnosis(
        State.LEFT_TO_APPLICATION,
        f"Status {row.status} belongs to the application, so the daemon leaves the row alone.",
        "Nothing; if the result is wanted after all, set the status to `generating`.",
    )


def _held(details: GenerationDetails, settings: Settings) -> Diagnosis:
    assert details.work is not None
    assert details.work.lease_until is not None
    left = format_seconds((details.work.lease_until - details.now).total_seconds())
    if details.holder is None or details.holder.seen_at is None:
        return Diagnosis(
            State.HOLDER_UNLISTED,
            "A process that is not on the list of replicas visits it: a command, or a replica that has ended.",
            _takeover(details, settings, f"Wait: the visit ends, or the row is free in {left}, when its lease ends."),
        )
    silent = (details.now - details.holder.seen_at).total_seconds()
    if silent > settings.lease_seconds * 2 / 3:
        return Diagnosis(
            State.HOLDER_SILENT,
            f"Held by {_holder(details)} which has not reported for {format_seconds(silent)}: it has ended, or hangs.",
            _takeover(details, settings, f"Wait: unless it comes back, another replica takes the row over in {left}."),
        )
    told = f"as {_holder(details)} reported {format_seconds(max(silent, 0))} ago"
    if details.transfer is not None:
        return _transferred(details, details.transfer, told)
    if details.asking is not None:
        cause = f"KIE has been asked about it and has not answered for {format_seconds(details.asking)}, {told}."
        return Diagnosis(State.ASKING, cause, "Wait: a request without an answer is given up and repeated by itself.")
    return Diagnosis(
        State.VISITED,
        f"A visit is under way; no step of it has taken long, {told}.",
        "Wait: a transfer or a request that takes longer than two seconds is shown here.",
    )


def _holder(details: GenerationDetails) -> str:
    assert details.holder is not None
    return f"replica {details.holder.host}, pid {details.holder.pid},"


def _takeover(details: GenerationDetails, settings: Settings, remedy: str) -> str:
    """Return the remedy, with what to do where no other replica can take the row over."""
    alive = timedelta(seconds=2 * settings.lease_seconds)
    seen_at = details.holder.seen_at if details.holder else None
    counted = seen_at is not None and seen_at > details.now - alive
    return remedy if details.replicas > counted else f"{remedy} No other replica is alive: start `kie-reconciler run`."


_MOVING = {"fetch": (State.FETCHING, "is being fetched"), "store": (State.STORING, "is being stored")}


def _transferred(details: GenerationDetails, transfer: Transfer, told: str) -> Diagnosis:
    results = details.results
    which = f"Result {transfer.n + 1}"
    if results is not None and transfer.n < results.announced:
        which += f" of {results.announced}"
    if transfer.stage not in _MOVING:
        size = "" if transfer.total is None else f" ({_bytes(transfer.total)})"
        cause = f"{which}{size} is in storage and is being verified for {format_seconds(transfer.seconds)}, {told}."
        return Diagnosis(State.VERIFYING, cause, "Wait: the row says success when the proof is there.")
    state, happens = _MOVING[transfer.stage]
    moved = _bytes(transfer.done)
    if transfer.total:
        moved += f" of {_bytes(transfer.total)} ({min(transfer.done / transfer.total, 1):.0%})"
    rate = f", {_bytes(transfer.bytes_per_second)}/s on average" if transfer.bytes_per_second else ""
    cause = f"{which} {happens}: {moved}{rate}, for {format_seconds(transfer.seconds)}, {told}."
    remedy = "Wait: a transfer that breaks off is repeated by itself."
    if transfer.total and transfer.bytes_per_second:
        left = max(transfer.total - transfer.done, 0) / transfer.bytes_per_second
        remedy = f"Wait: at this rate this step ends in {format_seconds(left)}."
    return Diagnosis(state, cause, remedy)


def _bytes(count: float) -> str:
    size, unit = next(
        (pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= pair[0]),
        (1, "bytes"),
    )
    return f"{count / size:.1f} {unit}" if size > 1 else f"{count:.0f} bytes"


def _excluded(details: GenerationDetails, reason: str) -> Diagnosis:
    cause = f"The daemon leaves it alone, because {reason}."
    provider = details.generation.provider
    if "RECONCILER_PROVIDERS" in reason:
        remedy = f"Nothing, if another system delivers it; else add {provider} to RECONCILER_PROVIDERS and restart."
        return Diagnosis(State.OTHER_PROVIDER, cause, remedy)
    remedy = "Nothing, if it is not a task of KIE; else correct the task id or RECONCILER_TASK_PATTERN."
    return Diagnosis(State.OTHER_TASK_ID, cause, remedy)


def _waiting(details: GenerationDetails, settings: Settings) -> Diagnosis:
    row, work, known = details.generation, details.work, details.known
    if work is not None and work.lease_until is not None and _is_due(work, details.now):
        ago = format_seconds((details.now - work.lease_until).total_seconds())
        return Diagnosis(
            State.LEASE_ENDED,
            f"The replica that visited it let its lease end {ago} ago: it has ended, or was cut off.",
            "Wait: a replica takes the row over within seconds.",
        )
    if work is None or known is None:
        sweep = f"Wait: the sweep finds it within {format_seconds(settings.sweep_seconds)} (RECONCILER_SWEEP_SECONDS)"
        since = "since it got this task" if work else "yet"
        return Diagnosis(
            State.UNSEEN,
            f"No replica has looked at it {since}.",
            f"{sweep}; if it is still here then, run `kie-reconciler doctor`.",
        )
    return _rested(details, known, _for_row(meaning(known.why, known.finding), row.id))


def _rested(details: GenerationDetails, known: Bookkeeping, meant: Meaning) -> Diagnosis:
    """Return where a generation is that has been visited, is free and rests."""
    row = details.generation
    cause = " ".join(filter(None, (_said(details), meant.cause if known.why or known.finding else "")))
    if known.write_at is not None or known.finding == "row_locked":
        return Diagnosis(State.LOCKED, cause, meant.remedy)
    if known.due_at is None:
        ends = (known.why or "").startswith("nothing left to fetch")
        remedy = meant.remedy if ends else f"Run `kie-reconciler retry {row.id}`: it plans one."
        return Diagnosis(State.UNPLANNED, f"No visit is planned. {cause}".strip(), remedy)
    if details.partial:
        lacking = meaning(None, "results_missing")
        return Diagnosis(State.DELIVERED_IN_PART, f"{_said(details)} {lacking.cause}".strip(), lacking.remedy)
    if row.status == "failed" and known.gave_up:
        cause = f"We gave it up ourselves, and KIE is still asked about it now and then. {_said(details)}"
        return Diagnosis(State.GAVE_UP, cause.strip(), "Nothing: if KIE still succeeds, the result is delivered.")
    if row.task_id is None and known.ordered_at is not None:
        return Diagnosis(
            State.ORDER_UNKNOWN,
            "The outcome of createTask is unknown: KIE may have created the task, so it is not ordered again.",
            "Wait for its callback, or look for the task in KIE's own log and write its id into the row.",
        )
    if not known.looks and row.task_id is not None and not known.why:
        return Diagnosis(State.FIRST_LOOK, "It waits for its first look.", "Wait: KIE is asked about it next.")
    if not known.looks and (known.why or "").startswith("waiting for its first poll"):
        return Diagnosis(State.FIRST_LOOK, meant.cause, meant.remedy)
    if known.finding == "parked":
        # A task that KIE has acknowledged is no other account's.
        waits = "Wait: KIE is asked every 30 min to 6 h, and its answer ends the row."
        return Diagnosis(State.PARKED, cause, waits if known.acknowledged_at else meant.remedy)
    if not cause:
        return Diagnosis(State.WAITING, "Its last visit ended without a reason.", "Wait: it is visited again.")
    return Diagnosis(State.WORKING if _works(known) else State.WAITING, cause, meant.remedy)


def _for_row(meant: Meaning, generation_id: str) -> Meaning:
    return replace(meant, remedy=meant.remedy.replace("retry ID", f"retry {generation_id}"))


def _works(known: Bookkeeping) -> bool:
    return (known.why or "").startswith("KIE says ") and not (known.why or "").startswith("KIE says success")


def _is_due(work: Bookkeeping, now: datetime) -> bool:
    return work.due_at is not None and work.due_at <= now


def _said(details: GenerationDetails) -> str:
    """Return the last attempt's own words as a sentence, empty before there are any."""
    return _sentence(details.known.why) if details.known is not None and details.known.why else ""


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."
