"""How the answer of `explain` looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from reconciler.cli.render.console import show_line, show_pairs
from reconciler.operations.explain import ExplainSettings, explain, history, sentences
from reconciler.postgres.reports.generation_details import GenerationDetails


def explanation_as_json(details: GenerationDetails, settings: ExplainSettings) -> Mapping[str, object]:
    """Return what is known of a generation, with its sentences and its history, for `--json`."""
    return {**asdict(details), "story": sentences(details, settings), "happened": history(details)}


def show_explanation(details: GenerationDetails, settings: ExplainSettings) -> None:
    """Print the sentences and the history of one generation."""
    show_line(f"generation {details.generation.id}")
    show_pairs(explain(details, settings))
