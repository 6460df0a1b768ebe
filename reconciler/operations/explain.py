"""One generation's case in sentences, for somebody woken at night: what is known, what is tried, what comes next.

Pure: a case and the terms in, sentences out. Called by `explain`, by the page of one generation, and by whoever asks
whether one has `ended`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from reconciler.domain.decide import MEDIA_LIFE
from reconciler.domain.findings import FindingThresholds, Snapshot, findings, format_seconds
from reconciler.domain.model import OPEN, SUCCEEDED
from reconciler.domain.object_keys import points_at_provider
from reconciler.postgres.eligibility import LONGEST_TASK
from reconciler.postgres.reports.generation_details import Bookkeeping, GenerationDetails, PastEvent
from reconciler.settings import Settings


@dataclass(frozen=True, slots=True)
class ExplainTerms:
    """What the settings say about time, about whose addresses are whose, and about which rows are ours."""

    give_up_after: timedelta
    their_hosts: tuple[str, ...]
    providers: tuple[str, ...] = ("kie",)
    task_pattern: str = ".+"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take them from the settings."""
        return cls(settings.give_up_after, settings.provider_hosts, settings.providers, settings.task_pattern)


def story(case: GenerationDetails, terms: ExplainTerms) -> dict[str, str]:
    """Return the sentences by what they are about, in the order in which a reader wants them."""
    told = {
        "row": _row(case),
        "KIE": _asked(case),
        "results": _results(case),
        "why": _why(case),
        "holder": _holder(case),
        "clock": _clock(case, terms),
        "next": _next(case, terms),
    }
    return {about: sentence for about, sentence in told.items() if sentence}


def whole(case: GenerationDetails, terms: ExplainTerms) -> dict[str, str]:
    """Return the story and, numbered, what happened: what a person reads in a terminal and on the page."""
    return story(case, terms) | {f"{n}.": line for n, line in enumerate(lines(case), start=1)}


def _at(when: datetime, now: datetime) -> str:
    """A moment with its distance, which is what one reads first."""
    seconds = (when - now).total_seconds()
    away = f"in {format_seconds(seconds)}" if seconds > 0 else f"{format_seconds(-seconds)} ago"
    return f"{away} ({when:%Y-%m-%d %H:%M:%S %Z})"


def _row(case: GenerationDetails) -> str:
    row = case.generation
    what = " by ".join(part for part in (row.kind or "something", row.model) if part)
    born = f"Status {row.status}: {what}, created {_at(row.created_at, case.now)}"
    told = f"{born}, task {row.task_id or 'not known yet'}, user {row.user_id or 'nobody'}."
    return f"{told} Its error says: {row.error}" if row.error else told


def _asked(case: GenerationDetails) -> str:
    known = case.known
    if case.generation.task_id is None:
        return _untasked(case)
    if known is None:
        since = "since it got this task" if case.work else "yet"
        return f"No replica has looked at it {since}."
    if not known.looks or known.looked_at is None:
        return "It has not been asked about yet."
    told = [f"Asked {_times(known.looks)}, last {_at(known.looked_at, case.now)}."]
    if known.acknowledged_at is None:
        told.append(_unacknowledged(known))
    elif known.answered_at is not None:
        told.append(f"KIE knows the task; its last word came {_at(known.answered_at, case.now)}.")
    if known.misses:
        told.append(f"Attempts in a row that brought nothing: {known.misses}.")
    return " ".join(told)


def _unacknowledged(known: Bookkeeping) -> str:
    # Where no answer told of the task, suspecting its account would send somebody the wrong way.
    if (known.why or "").startswith("KIE: "):
        return "KIE has told nothing of the task yet."
    return "KIE has never acknowledged the task: it may belong to another key or account."


def _untasked(case: GenerationDetails) -> str:
    told = "There is no task id, so there is nothing to ask about."
    if case.work is None or case.work.ordered_at is None or case.generation.status not in OPEN:
        return told
    since = _at(case.work.ordered_at, case.now)
    return (
        f"createTask: its outcome is unknown since {since}. KIE may have made the task; it is never ordered again, and "
        f"the callback that names this generation settles it. {told}"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _results(case: GenerationDetails) -> str:
    known = case.known
    if known is None or not known.sources:
        return ""
    told = [f"{len(case.receipts)} of {len(known.sources)} results are stored and proven."]
    if known.completed_at is not None:
        told.insert(0, f"KIE finished {_at(known.completed_at, case.now)}.")
    if known.stale:
        told.append("An address is dead, so KIE is asked for new ones.")
    if case.work and case.work.delivered_at is not None:
        after = (case.work.delivered_at - case.generation.created_at).total_seconds()
        told.append(f"Delivered {_at(case.work.delivered_at, case.now)}, {format_seconds(after)} after its creation.")
    return " ".join(told)


def _why(case: GenerationDetails) -> str:
    known = case.known
    if known is None or not known.why:
        return ""
    told = [f"{known.why}."]
    if known.finding:
        # Findings say it for the whole table; asked about one row they say it for this one.
        alone = Snapshot(in_flight={}, canary_age=0, sweep_age=0, listening=True, waiting={known.finding: 1})
        told += [finding.do for finding in findings(alone, FindingThresholds())]
    return " ".join(told)


def _holder(case: GenerationDetails) -> str:
    if case.work is None or case.work.lease_until is None or case.holder is None:
        return "Nobody holds it."
    holder, until = case.holder, _at(case.work.lease_until, case.now)
    where = f"on {holder.host}, pid {holder.pid}" if holder.host else "which is not on the list of replicas"
    if case.held:
        return f"Held by instance {holder.instance} ({where}); the lease ends {until} unless it is renewed."
    return f"The lease of instance {holder.instance} ({where}) ended {until}: whoever looks next takes it over."


def _clock(case: GenerationDetails, terms: ExplainTerms) -> str:
    ahead = sorted(clock for clock in _clocks(case, terms) if clock[0] > case.now)
    past = sorted(clock for clock in _clocks(case, terms) if clock[0] <= case.now)
    told = [f"Run out: {what}, {_at(when, case.now)}." for when, what in past]
    if ahead:
        when, what = ahead[0]
        told.append(f"First to run out: {what}, {_at(when, case.now)}.")
    return " ".join(told)


def _clocks(case: GenerationDetails, terms: ExplainTerms) -> Iterator[tuple[datetime, str]]:
    row, known = case.generation, case.known
    if ended(case, terms) or _left_alone(case, terms):
        return
    if row.status in OPEN:
        yield _task_began(case) + terms.give_up_after, "our patience (RECONCILER_GIVE_UP_AFTER)"
    if known is not None and known.sources and known.media_deadline is not None:
        yield known.media_deadline, "the time for which KIE's result addresses are good"
    begun = known.completed_at if known is not None and known.completed_at else _task_began(case)
    yield begun + MEDIA_LIFE, "the media's life at KIE"


def _task_began(case: GenerationDetails) -> datetime:
    """When the row got its present task: what is counted from it counts anew with another."""
    created = case.generation.created_at
    return max(created, (case.known and case.known.task_since) or created)


def ended(case: GenerationDetails, terms: ExplainTerms) -> bool:
    """Whether nothing more is going to happen by itself, whatever comes."""
    row = case.generation
    if row.status in OPEN:
        return False
    if row.status in SUCCEEDED:
        if case.known is not None and case.known.reopened and case.known.due_at is not None:
            return False
        # Beside the receipt the host says nothing: a storage may share it with the provider, as on one machine.
        stored = any((row.asset_url or "").endswith(receipt.path) for receipt in case.receipts)
        return stored or (bool(row.asset_url) and not points_at_provider(row.asset_url, terms.their_hosts))
    return not (row.status == "failed" and case.known is not None and case.known.due_at is not None)


def _next(case: GenerationDetails, terms: ExplainTerms) -> str:
    told = [_step(case, terms)]
    if not case.replicas and not ended(case, terms) and not _left_alone(case, terms):
        told.append("No replica is alive: start `kie-reconciler run`.")
    return " ".join(told)


def _step(case: GenerationDetails, terms: ExplainTerms) -> str:
    row, work = case.generation, case.work
    if ended(case, terms):
        return _last_word(case)
    if case.held:
        return "A visit is under way."
    if why := _left_alone(case, terms):
        return f"Nothing: it is not one of ours, as {why}."
    if work is None or case.known is None:
        return "The next sweep finds it."
    if work.due_at is None:
        return f"No look is planned; `kie-reconciler retry {row.id}` makes one."
    told = [_look(work, case.now)]
    if row.status == "failed":
        told.append("We gave it up ourselves, so good news still delivers it." if work.gave_up else "It was reopened.")
    elif row.status in OPEN and _task_began(case) + terms.give_up_after < case.now:
        told.append("It is failed once KIE answers about it and has nothing; until then it is asked ever more slowly.")
    return " ".join(told)


def _left_alone(case: GenerationDetails, terms: ExplainTerms) -> str:
    """Why no replica ever looks at it; empty where one does, or has."""
    row = case.generation
    if case.known is not None:
        return ""
    if row.provider is not None and row.provider not in terms.providers:
        return f"its provider is {row.provider} (RECONCILER_PROVIDERS)"
    if row.task_id is not None and len(row.task_id.encode()) > LONGEST_TASK:
        return f"its task id has more than {LONGEST_TASK} bytes"
    if row.task_id is not None and not re.search(terms.task_pattern, row.task_id):
        return "its task id does not match RECONCILER_TASK_PATTERN"
    return ""


def _look(work: Bookkeeping, now: datetime) -> str:
    if work.due_at is None or work.due_at <= now:
        late = "" if work.due_at is None else f" for {format_seconds((now - work.due_at).total_seconds())}"
        return f"Its next look has been due{late}: it waits for its turn among the requests to KIE."
    early = work.early_at
    sooner = f"; from {early:%H:%M:%S} on when a request is to spare" if early and now < early < work.due_at else ""
    return f"Next look {_at(work.due_at, now)}{sooner}."


def _last_word(case: GenerationDetails) -> str:
    row = case.generation
    if row.status in SUCCEEDED and case.events and case.events[-1].kind == "lost":
        return f"Nothing more: storage has lost what it showed at {row.asset_url}, and KIE has it no more."
    if row.status in SUCCEEDED:
        return f"Nothing more: it is delivered, at {row.asset_url}"
    if row.status == "failed":
        return f"Nothing more by itself; `kie-reconciler retry {row.id}` asks KIE once more."
    return f"Nothing: rows in status {row.status} are the application's own."


def lines(case: GenerationDetails) -> Sequence[str]:
    """Return what happened, in order: receipts, events, callbacks, each with its time."""
    happened = [(one.at, f"{one.kind}, {_told(one)}") for one in case.events]
    happened += [(at, "callback received") for at in case.callbacks]
    happened += [
        (one.stored_at, f"stored {one.path}, {one.size} bytes, sha256 {one.sha256}, proven by {one.verified_by}")
        for one in case.assets
        if one.stored_at is not None
    ]
    planned = [f"begun: {one.path}, {one.size} bytes, no receipt yet" for one in case.assets if not one.verified_by]
    return [f"{at:%Y-%m-%d %H:%M:%S} {what}" for at, what in sorted(happened)] + planned


def _told(event: PastEvent) -> str:
    if event.announced_at is not None:
        return f"announced {event.announced_at:%H:%M:%S}"
    if event.dead_at is not None:
        return f"not announced: given up after {format_seconds((event.dead_at - event.at).total_seconds())}"
    return "not announced"
