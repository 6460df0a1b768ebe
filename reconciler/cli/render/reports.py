"""How the answers of `status`, `stuck` and `explain` look."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta

from rich.filesize import decimal

from reconciler.cli.render.console import show_line, show_pairs, show_table
from reconciler.domain.findings import format_seconds
from reconciler.operations.explain import explain, history, sentences
from reconciler.postgres.reports.generation_details import GenerationDetails
from reconciler.postgres.reports.reports import StatusReport, StuckGeneration
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


def show_stuck(stuck: Sequence[StuckGeneration], after: timedelta) -> None:
    """Print the generations in flight for too long, the oldest first."""
    if not stuck:
        show_line(f"nothing is in flight for longer than {format_seconds(after.total_seconds())}")
        return
    rows = ((row.id, row.task_id, row.kind, row.model, row.status, format_seconds(row.age), row.why) for row in stuck)
    show_table(("generation", "task", "kind", "model", "status", "age", "why"), rows)


def explanation_as_json(details: GenerationDetails, settings: Settings) -> Mapping[str, object]:
    """Return what is known of a generation, with its sentences and its history, for `--json`."""
    results = asdict(details.results) if details.results else None
    told = {"story": sentences(details, settings), "happened": history(details)}
    return {**asdict(details), "results": results, **told}


def show_explanation(details: GenerationDetails, settings: Settings) -> None:
    """Print the sentences and the history of one generation."""
    show_line(f"generation {details.generation.id}")
    show_pairs(explain(details, settings))


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)
