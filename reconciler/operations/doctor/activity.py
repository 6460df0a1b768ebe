"""The checks of what really happens: whether `run` would start, who is alive, what is left alone, delivered, open.

Everything here is read as the daemon reads it: on a connection that was checked as `run` checks its own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from reconciler import __version__
from reconciler.domain.findings.findings import Finding, format_seconds
from reconciler.domain.model import OPEN
from reconciler.operations.doctor import Check, NotKnown, attempt, fail, judged, not_looked, ok, warn
from reconciler.postgres.reports.recent_rows import EndedCounts, FailingStage, IgnoredRows, RecentRows
from reconciler.postgres.reports.reports import Reports
from reconciler.settings import Settings

RECENT: Final = timedelta(minutes=10)
"""Deliveries and failures are counted over this time."""

MANY_FAILING: Final = 3
"""From this many rows on that fail at one stage, while nothing is delivered, the check fails."""

_OF_ROWS: Final = ("ignored_rows", "deliveries", "findings")
_SHOWN: Final = 5
_LONGEST: Final = 160
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")


@dataclass(frozen=True, slots=True)
class RowReaders:
    """What reads the rows of the application and our bookkeeping, once `run` could use both."""

    reports: Reports
    recent: RecentRows


@dataclass(frozen=True, slots=True)
class RecentActivity:
    """What ended within the last minutes, and the rows whose last attempt failed."""

    ended: EndedCounts
    failing: Sequence[FailingStage]


async def check_activity(
    settings: Settings,
    open_readers: Callable[[], AbstractAsyncContextManager[RowReaders]],
    versions: Mapping[str, int] | NotKnown,
    *,
    within: float,
) -> list[Check]:
    """Make the checks of rows and replicas; `versions` are the daemons alive. Each step takes `within` seconds."""
    async with AsyncExitStack() as stack:
        readers = await attempt(lambda: stack.enter_async_context(open_readers()), within=within)
        checks = [judge_preflight(readers if isinstance(readers, NotKnown) else None)]
        if isinstance(readers, NotKnown):
            replicas = judged("replicas", versions, lambda known: judge_replicas(known, __version__, None))
            return [*checks, replicas, *(not_looked(name, "the rows cannot be read") for name in _OF_ROWS)]
        waiting = await attempt(readers.reports.in_flight, within=within)
        in_flight = None if isinstance(waiting, NotKnown) else waiting.rows
        open_findings = await attempt(readers.reports.findings, within=within)
        ignored = await attempt(readers.recent.ignored, within=within)
        recent = await attempt(lambda: _read_recent(readers.recent), within=within)
    return [
        *checks,
        judged("replicas", versions, lambda known: judge_replicas(known, __version__, in_flight)),
        judged("ignored_rows", ignored, lambda rows: judge_ignored_rows(rows, settings.providers)),
        judged("deliveries", recent, judge_deliveries),
        judged("findings", open_findings, judge_findings),
    ]


async def _read_recent(recent: RecentRows) -> RecentActivity:
    return RecentActivity(await recent.ended(RECENT), await recent.failing())


def judge_preflight(trouble: NotKnown | None) -> Check:
    """Judge whether `run` could start on this database; `trouble` is what the same function said that `run` calls."""
    if trouble is None:
        return ok("preflight", "`run` finds what it needs in the database")
    if trouble.lasting:
        return fail("preflight", f"`run` stops at its start: {trouble.reason}", trouble.do)
    return not_looked("preflight", trouble.reason)


def judge_replicas(versions: Mapping[str, int], our_version: str, in_flight: int | None) -> Check:
    """Judge the daemons that are alive, counted by version; `in_flight` rows wait for them, None if not known."""
    if not versions:
        start = "Start one: kie-reconciler run (as a service: systemctl start kie-reconciler)"
        if in_flight:
            return fail("replicas", f"no daemon is alive, and {_rows(in_flight)} in flight", start)
        return warn("replicas", "no daemon is alive: the next generation will not be delivered", start)
    alive = " and ".join(f"{count} of version {version}" for version, count in sorted(versions.items()))
    do = "Install one version on every machine and restart the replicas one by one."
    if len(versions) > 1:
        return warn("replicas", f"daemons of different versions are alive: {alive}", do)
    if our_version not in versions:
        return warn("replicas", f"alive: {alive}; this command is version {our_version}", do)
    return ok("replicas", f"alive: {alive}")


def judge_ignored_rows(ignored: Sequence[IgnoredRows], providers: Sequence[str]) -> Check:
    """Judge the rows that seem to wait and are left alone, and those that have an empty text instead of no task."""
    if not ignored:
        return ok("ignored_rows", "no row in flight is left alone")
    by_column: dict[str, list[IgnoredRows]] = {}
    for rows in ignored:
        by_column.setdefault(rows.column, []).append(rows)
    says, do = [], []
    if found := by_column.get("provider"):
        says.append(f"{_rows(_count(found))} in flight with provider {_words(found)}, and left alone")
        plain = [rows.word for rows in found if _PLAIN.fullmatch(rows.word)]
        wanted = ",".join([*providers, *plain[:_SHOWN]])
        do.append(f"If KIE makes the tasks of these providers, set RECONCILER_PROVIDERS={wanted}")
    if found := by_column.get("status"):
        says.append(f"{_rows(_count(found))} left alone with a status that the daemon does not know: {_words(found)}")
        do.append(f"Let the application write one of the statuses of rows in flight: {', '.join(OPEN)}.")
    if found := by_column.get("task_id"):
        says.append(f"{_rows(_count(found))} in flight with an empty task_id, which is read as none")
        do.append("Let the application write NULL, or leave task_id out, until there is a task.")
    return warn("ignored_rows", "; ".join(says), "\n".join(do))


def judge_deliveries(recent: RecentActivity) -> Check:
    """Judge what ended within the last minutes, and the rows whose last attempt failed."""
    ended = recent.ended
    within = format_seconds(RECENT.total_seconds())
    says = f"in the last {within} {ended.delivered} delivered, {ended.failed} failed for good"
    if not recent.failing:
        return ok("deliveries", f"{says}; no row's last attempt failed")
    stages = "; ".join(
        f"{_rows(stage.rows)} failing at stage {stage.stage} for {format_seconds(stage.seconds)} ({_cut(stage.reason)})"
        for stage in recent.failing[:_SHOWN]
    )
    do = "kie-reconciler stuck; kie-reconciler explain ID says of each row what was tried and what comes next"
    if not ended.delivered and recent.failing[0].rows >= MANY_FAILING:
        return fail("deliveries", f"{says}; {stages}", do)
    return warn("deliveries", f"{says}; {stages}", do)


def judge_findings(found: Sequence[Finding]) -> Check:
    """Judge the open findings, as `status` lists them: one of severity `page` is a failure."""
    if not found:
        return ok("findings", "none is open")
    says = " ".join(f"{finding.name}: {finding.says}" for finding in found)
    do = "\n".join(f"{finding.name}: {finding.do}" for finding in found)
    if any(finding.severity == "page" for finding in found):
        return fail("findings", says, do)
    return warn("findings", says, do)


def _count(found: Sequence[IgnoredRows]) -> int:
    return sum(rows.rows for rows in found)


def _words(found: Sequence[IgnoredRows]) -> str:
    """Return the words of the rows as a list; a word with unusual characters in quotes, because any row may hold it."""
    words = [rows.word if _PLAIN.fullmatch(rows.word) else ascii(_cut(rows.word)) for rows in found]
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")


def _rows(count: int) -> str:
    return f"{count} row is" if count == 1 else f"{count} rows are"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
