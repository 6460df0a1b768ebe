"""How the answers of `status`, `stuck` and `explain` look."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta

from rich.filesize import decimal

from reconciler.cli.render.console import show_line, show_pairs, show_paragraphs
from reconciler.domain.findings.findings import format_seconds
from reconciler.operations.explain import diagnosed, explain, history, sentences
from reconciler.operations.stuck import StuckAnswer
from reconciler.postgres.reports.generation_details import GenerationDetails
from reconciler.postgres.reports.reports import InFlight, StatusReport
from reconciler.settings import Settings


def show_status(status: StatusReport) -> None:
    """Print the open findings, each with what to do, then the figures of the last day and of this moment."""
    for finding in status.findings:
        show_line(f"{finding.name} ({finding.severity}): {finding.says} {finding.do}")
    percent = "-" if status.success_percent is None else f"{status.success_percent:.1f} %"
    show_pairs(
        {
            "last 24 h": f"{status.total} generations",
            "  success": f"{status.success} ({percent})",
            "  failed": str(status.failed),
            "  generating": str(status.generating),
            "  time to delivery": f"mean {_seconds(status.mean_seconds)}, p95 {_seconds(status.p95_seconds)}",
            "  stored": f"{decimal(status.stored_bytes)} in {status.stored_files} files",
            "in flight": str(status.in_flight),
            "stuck": str(status.stuck),
            "replicas alive": str(status.replicas),
        }
    )


def show_stuck(answer: StuckAnswer, after: timedelta) -> None:
    """Print the generations in flight for too long, the oldest first, or what was looked for."""
    if not answer.generations:
        show_line(_none_stuck(answer.in_flight, format_seconds(after.total_seconds())))
        return
    for generation in answer.generations:
        what = " by ".join(part for part in (generation.kind or "something", generation.model) if part)
        show_line(f"{generation.id}  {generation.status} for {format_seconds(generation.age)}")
        task = {"task": generation.task_id or "not known yet", "what": what}
        show_paragraphs({**task, "why": generation.cause, "do": generation.do}, indent="  ")


def _none_stuck(in_flight: InFlight, after: str) -> str:
    none = f"no generation has been in flight for longer than {after}"
    if not in_flight.rows or in_flight.oldest is None:
        return f"{none}; none is in flight"
    oldest = format_seconds(in_flight.oldest)
    if in_flight.rows == 1:
        return f"{none}; 1 is in flight, for {oldest}"
    return f"{none}; {in_flight.rows} are in flight, the oldest for {oldest}"


def explanation_as_json(details: GenerationDetails, settings: Settings) -> Mapping[str, object]:
    """Return what is known of a generation, with its sentences and its history, for `--json`."""
    results = asdict(details.results) if details.results else None
    told = {"state": diagnosed(details, settings).state, "story": sentences(details, settings)}
    return {**asdict(details), "results": results, **told, "happened": history(details)}


def show_explanation(details: GenerationDetails, settings: Settings) -> None:
    """Print the sentences and the history of one generation."""
    show_line(f"generation {details.generation.id}")
    show_paragraphs(explain(details, settings))


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)
