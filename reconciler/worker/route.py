"""Whom to ask about a task: which dialect, with which key.

A task belongs to the key that made it, and asked in the wrong dialect or with the wrong key it looks unknown. Until KIE
has acknowledged it, keys and dialects are tried in turn; afterwards the pair that answered is kept in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.domain.model import Row
from reconciler.kie.dialects import Dialect, by_name, candidates


@dataclass(frozen=True, slots=True)
class RingKey:
    """One key of the ring, by its hash; `kind` is what the application makes with it, None for anything."""

    key_hash: str
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request about a task goes."""

    family: Dialect
    key_hash: str


def route(row: Row, keys: Sequence[RingKey]) -> Route:
    """Return whom to ask about this row's task next; the row has a task, the ring at least one key."""
    known = {key.key_hash for key in keys}
    if row.acknowledged_at is not None and row.key_hash in known and row.key_hash is not None:
        family = by_name(row.family) if row.family else None
        if family is not None:
            return Route(family, row.key_hash)
    turns = ring(row, keys)
    rounds, turn = divmod(row.unknowns, len(turns))
    return Route(_candidate(candidates(row.model, row.task_id or ""), rounds), turns[turn].key_hash)


def ring(row: Row, keys: Sequence[RingKey]) -> list[RingKey]:
    """Return the keys in the order in which they are tried: those that make this kind of thing come first."""
    return sorted(keys, key=lambda key: _distance(key, row.kind))


def makers(keys: Sequence[RingKey], kind: str) -> tuple[RingKey, ...]:
    """Return the keys that tasks of this kind are made with: those meant for it, else those for anything, else all."""
    nearest = min(_distance(key, kind) for key in keys)
    return tuple(key for key in keys if _distance(key, kind) == nearest)


def _candidate(families: Sequence[Dialect], rounds: int) -> Dialect:
    """The likeliest every second time: KIE may merely have been slow to know the task."""
    if rounds % 2 == 0 or len(families) == 1:
        return families[0]
    return families[1 + rounds // 2 % (len(families) - 1)]


def _distance(key: RingKey, kind: str | None) -> int:
    if key.kind is None:
        return 1
    return 0 if key.kind == kind else 2
