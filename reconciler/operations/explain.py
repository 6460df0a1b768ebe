"""One generation in sentences: what is known, what was tried, who holds it, and what happens next.

Pure: a report and the settings in, sentences out. Called by the commands `explain` and `stuck`, and by the route of one
generation; `ended` is asked by every operation. The state, its cause and its remedy come from `diagnosis.py`.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from reconciler.domain.elapsed import MEDIA_LIFE
from reconciler.domain.findings.findings import format_seconds
from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.operations.diagnosis import Diagnosis, State, diagnose
from reconciler.postgres.eligibility import LONGEST_TASK
from reconciler.postgres.reports.generation_details import Bookkeeping, GenerationDetails, PastEvent
from reconciler.settings import Settings

_NAMED = 10


def sentences(details: GenerationDetails, settings: Settings) -> dict[str, str]:
    """Return the sentences by topic, in reading order; a topic without a sentence is left out."""
    diagnosis = diagnosed(details, settings)
    by_topic = {
        "row": _row(details),
        "why": diagnosis.cause,
        "do": diagnosis.remedy,
        "KIE": _polls(details),
        "results": _results(details),
        "holder": _holder(details),
        "clock": _deadline(details, settings),
        "next": _next(details, settings, diagnosis.state),
    }
    return {topic: sentence for topic, sentence in by_topic.items() if sentence}


def diagnosed(details: GenerationDetails, settings: Settings) -> Diagnosis:
    """Return where the generation is, why, and what a person does about it."""
    at_rest, left_alone = _at_rest(details, settings), _left_alone(details, settings)
    return diagnose(details, settings, at_rest=at_rest, left_alone=left_alone)


def explain(details: GenerationDetails, settings: Settings) -> dict[str, str]:
    """Return the sentences and the numbered history, as a terminal and the page show them."""
    return sentences(details, settings) | {f"{n}.": line for n, line in enumerate(history(details), start=1)}


def _at(when: datetime, now: datetime) -> str:
    """Return a moment, after its distance from now."""
    seconds = (when - now).total_seconds()
    away = f"in {format_seconds(seconds)}" if seconds > 0 else f"{format_seconds(-seconds)} ago"
    return f"{away} ({when:%Y-%m-%d %H:%M:%S %Z})"


def _row(details: GenerationDetails) -> str:
    row = details.generation
    what = " by ".join(part for part in (row.kind or "something", row.model) if part)
    created = f"Status {row.status}: {what}, created {_at(row.created_at, details.now)}"
    sentence = (
        f"{created}, task {row.task_id or 'not known yet'}, {f'user {row.user_id}' if row.user_id else 'no user'}."
    )
    return f"{sentence} Its error says: {row.error}" if row.error else sentence


def _polls(details: GenerationDetails) -> str:
    known = details.known
    if details.generation.task_id is None:
        return _untasked(details)
    if known is None:
        since = "since it got this task" if details.work else "yet"
        return "" if details.held else f"No replica has looked at it {since}."
    if not known.looks or known.looked_at is None:
        # A visit writes down what it learns when it ends.
        return f"KIE was not asked about it {'before this visit' if details.held else 'yet'}."
    parts = [f"Asked {_times(known.looks)}, last {_at(known.looked_at, details.now)}."]
    if known.acknowledged_at is None:
        parts.append(_unacknowledged(known))
    elif known.answered_at is not None:
        parts.append(f"KIE knows the task; its last answer came {_at(known.answered_at, details.now)}.")
    if known.misses:
        parts.append(f"Failed attempts in a row: {known.misses}.")
    return " ".join(parts)


def _unacknowledged(known: Bookkeeping) -> str:
    # Without an answer about the task nothing speaks for another account.
    if (known.why or "").startswith("KIE: "):
        return "KIE has not answered about the task yet."
    return "KIE has never acknowledged the task: it may belong to another key or account."


def _untasked(details: GenerationDetails) -> str:
    sentence = "There is no task id, so KIE cannot be asked."
    if details.work is None or details.work.ordered_at is None or details.generation.status not in OPEN:
        return sentence
    since = _at(details.work.ordered_at, details.now)
    return (
        f"The outcome of createTask is unknown since {since}. KIE may have created the task; it is not ordered again. "
        f"A callback that names this generation settles it. {sentence}"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _results(details: GenerationDetails) -> str:
    known, results = details.known, details.results
    if known is None or results is None:
        return ""
    parts = [f"{results.stored} of {results.announced} results are stored and proven."]
    if results.missing:
        parts.append(f"KIE has announced and not given yet: {_names(results.missing)}.")
    if known.completed_at is not None:
        parts.insert(0, f"KIE finished {_at(known.completed_at, details.now)}.")
    if known.stale:
        parts.append("An address is dead, so KIE is asked for new ones.")
    if details.work and details.work.delivered_at is not None:
        after = (details.work.delivered_at - details.generation.created_at).total_seconds()
        parts.append(
            f"Delivered {_at(details.work.delivered_at, details.now)}, {format_seconds(after)} after its creation."
        )
    return " ".join(parts)


def _names(keys: Sequence[str]) -> str:
    """Return the first keys; a key is KIE's id of a result, or "#" and its position in the list, from 0."""
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _holder(details: GenerationDetails) -> str:
    if details.work is None or details.work.lease_until is None or details.holder is None:
        return "No replica holds it."
    holder, until = details.holder, _at(details.work.lease_until, details.now)
    where = f"on {holder.host}, pid {holder.pid}" if holder.host else "not on the list of replicas"
    if details.held:
        return f"Held by instance {holder.instance} ({where}); the lease ends {until} unless it is renewed."
    return f"The lease of instance {holder.instance} ({where}) ended {until}: the next visit takes it over."


def _deadline(details: GenerationDetails, settings: Settings) -> str:
    parts = []
    for when, what in sorted(_deadlines(details, settings)):
        ahead = when > details.now
        parts.append(f"{'First to run out' if ahead else 'Run out'}: {what}, {_at(when, details.now)}.")
        if ahead:
            break
    return " ".join(parts)


def _deadlines(details: GenerationDetails, settings: Settings) -> Iterator[tuple[datetime, str]]:
    row, known = details.generation, details.known
    if _at_rest(details, settings) or _left_alone(details, settings):
        return
    if row.status in OPEN:
        yield _task_began(details) + settings.give_up_after, "the time until we give up (RECONCILER_GIVE_UP_AFTER)"
    if known is not None and known.sources and known.media_deadline is not None:
        yield known.media_deadline, "the time that KIE's result addresses work"
    begin = known.completed_at if known is not None and known.completed_at else _task_began(details)
    yield begin + MEDIA_LIFE, "the time that KIE keeps results"


def _task_began(details: GenerationDetails) -> datetime:
    """Return when the row got its present task: another task begins every deadline anew."""
    created = details.generation.created_at
    return max(created, (details.known and details.known.task_since) or created)


def _at_rest(details: GenerationDetails, settings: Settings) -> bool:
    """Return whether nothing more happens to the generation by itself."""
    waits = details.partial and details.known is not None and details.known.due_at is not None
    return ended(details, settings) and not waits


def ended(details: GenerationDetails, settings: Settings) -> bool:
    """Return whether the generation has ended; results that are missing in a success can still be added."""
    row = details.generation
    if row.status in OPEN:
        return False
    if row.status in SUCCEEDED:
        if details.known is not None and details.known.reopened and details.known.due_at is not None:
            return False
        # With a receipt the host proves nothing: on one machine storage and provider can share it.
        stored = any((row.asset_url or "").endswith(receipt.path) for receipt in details.receipts)
        rules = settings.address_rules
        return stored or (
            bool(row.asset_url) and not rules.at_provider(row.id, row.asset_url, is_result=row.asset_is_result)
        )
    return not (row.status == "failed" and details.known is not None and details.known.due_at is not None)


def _next(details: GenerationDetails, settings: Settings, state: State) -> str:
    row, work = details.generation, details.work
    if _at_rest(details, settings):
        return _end(details)
    if state in (State.HOLDER_SILENT, State.HOLDER_UNLISTED):
        return "The next visit begins when the lease ends, if this one does not end before."
    if details.held:
        return "A visit is under way."
    if reason := _left_alone(details, settings):
        return f"Nothing: the daemon leaves it alone, because {reason}."
    if not details.replicas:
        return "Nothing, until a replica runs."
    if work is None or details.known is None:
        return "The next sweep finds it."
    if work.due_at is None:
        return f"No visit is planned; `kie-reconciler retry {row.id}` makes one."
    parts = [_next_visit(work, details.now)]
    if details.partial:
        parts.append("It is delivered without the missing results, which are added if KIE still gives them.")
    elif row.status == "failed":
        parts.append(
            "We gave it up ourselves: if KIE still succeeds, the result is delivered."
            if work.gave_up
            else "It was reopened."
        )
    elif row.status in OPEN and _task_began(details) + settings.give_up_after < details.now:
        parts.append("It fails when KIE answers that it has no result; until then KIE is asked less and less often.")
    return " ".join(parts)


def _left_alone(details: GenerationDetails, settings: Settings) -> str:
    """Return why no replica visits it; empty where one does, or did."""
    row = details.generation
    if details.known is not None:
        return ""
    if row.provider is not None and row.provider not in settings.providers:
        return f"its provider is {row.provider} (RECONCILER_PROVIDERS)"
    if row.task_id is not None and len(row.task_id.encode()) > LONGEST_TASK:
        return f"its task id has more than {LONGEST_TASK} bytes"
    if row.task_id is not None and not re.search(settings.task_pattern, row.task_id):
        return "its task id does not match RECONCILER_TASK_PATTERN"
    return ""


def _next_visit(work: Bookkeeping, now: datetime) -> str:
    if work.due_at is None or work.due_at <= now:
        late = "" if work.due_at is None else f" for {format_seconds((now - work.due_at).total_seconds())}"
        return f"Its next visit has been due{late}: it waits for its turn among the requests to KIE."
    if work.write_at is not None:
        return f"The write is tried again {_at(max(work.write_at, now), now)}. Next visit {_at(work.due_at, now)}."
    early = work.early_at
    sooner = f"; from {early:%H:%M:%S} on if a request is to spare" if early and now < early < work.due_at else ""
    return f"Next visit {_at(work.due_at, now)}{sooner}."


def _end(details: GenerationDetails) -> str:
    row = details.generation
    if row.status in SUCCEEDED and details.events and details.events[-1].kind == "lost":
        return f"Nothing more: storage lost the object at {row.asset_url}, and KIE no longer has it."
    if row.status in SUCCEEDED:
        without = " without the missing results" if details.partial else ""
        return f"Nothing more: it is delivered{without}, at {row.asset_url}"
    if row.status == "failed":
        return f"Nothing more by itself; `kie-reconciler retry {row.id}` asks KIE once more."
    return f"Nothing: status {row.status} belongs to the application."


def history(details: GenerationDetails) -> Sequence[str]:
    """Return events, callbacks and receipts, each with its time, in order."""
    happened = [(one.at, f"{one.kind}, {_announcement(one)}") for one in details.events]
    happened += [(at, "callback received") for at in details.callbacks]
    happened += [
        (one.stored_at, f"stored {one.path}, {one.size} bytes, sha256 {one.sha256}, proven by {one.verified_by}")
        for one in details.assets
        if one.stored_at is not None
    ]
    unproven = [f"begun: {one.path}, {one.size} bytes, no receipt yet" for one in details.assets if not one.verified_by]
    return [f"{at:%Y-%m-%d %H:%M:%S} {what}" for at, what in sorted(happened)] + unproven


def _announcement(event: PastEvent) -> str:
    if event.announced_at is not None:
        return f"announced {event.announced_at:%H:%M:%S}"
    if event.dead_at is not None:
        return f"not announced: given up after {format_seconds((event.dead_at - event.at).total_seconds())}"
    return "not announced"
