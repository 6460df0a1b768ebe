"""The commands `status`, `stuck` and `explain`, which only ask the database."""

from typing import Annotated

import typer

from reconciler.cli.options import AsJson, ask, emit, fail, settings_for


def status(*, as_json: AsJson = False) -> None:
    """Report the open findings and the last 24 hours.

    Also what is in flight or stuck now, and how many replicas are alive.
    """
    from reconciler.cli.render.reports import show_status

    emit(ask(settings_for("database_url"), lambda reports: reports.status()), show_status, as_json=as_json)


def stuck(*, as_json: AsJson = False) -> None:
    """List what is in flight for too long, why, and what to do.

    Longer than RECONCILER_STUCK_AFTER; the oldest first.
    """
    from reconciler.cli.render.console import show_json
    from reconciler.cli.render.reports import show_stuck
    from reconciler.operations.stuck import stuck as stuck_generations

    settings = settings_for("database_url")
    answer = ask(settings, lambda reports: stuck_generations(reports, settings))
    if as_json:
        show_json(answer.generations)
    else:
        show_stuck(answer, settings.stuck_after)


def explain(
    name: Annotated[str, typer.Argument(metavar="ID", help="A generation's id, or a task's.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Explain one generation.

    Why it has not ended and what to do, a transfer under way, what is known, who holds it, which time runs out first,
    what happens next and when.
    """
    from reconciler.cli.render.console import show_json
    from reconciler.cli.render.reports import explanation_as_json, show_explanation

    settings = settings_for("database_url")
    found = ask(settings, lambda reports: reports.explain(name))
    if not found:
        fail(f"no generation and no task has the id {name}")
    if as_json:
        show_json([explanation_as_json(details, settings) for details in found])
    else:
        for details in found:
            show_explanation(details, settings)
