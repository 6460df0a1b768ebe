"""Which tasks a generation has had, as SQL about `reconciler.work` w: since when the present one, and which before.

The application may make a generation once more, with another task. Every statement that notes a task does it in these
words, in the ledger and beside it.
"""

from __future__ import annotations

FORMER = 20
"""The most tasks that a generation is remembered to have had, the latest."""

NEVER_HAD = "c.task_id IS DISTINCT FROM w.seen_task AND c.task_id <> ALL (w.former_tasks)"
"""The callback `c` is of a task that the generation never had: its old one is not the one that is being made now."""


def given(task: str) -> str:
    """Set of `work` w which task it is about; where that is new, also since when, and which it was before."""
    other = f"w.seen_task IS DISTINCT FROM {task}"
    return f"""seen_task = {task},
       task_since = CASE WHEN {other} THEN now() ELSE w.task_since END,
       former_tasks = CASE WHEN {other} AND w.seen_task IS NOT NULL
                           THEN (w.former_tasks || w.seen_task)[cardinality(w.former_tasks) - {FORMER - 2}:]
                           ELSE w.former_tasks END"""
