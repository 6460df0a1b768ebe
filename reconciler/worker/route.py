"""How KIE is asked about a task: in which dialect and with which key.

A task belongs to the key that made it. In the wrong dialect or with the wrong key it looks unknown. Until KIE has
acknowledged the task, keys and dialects are tried in turn; then the pair that answered is kept in the row. `poll.py`
and `create` call this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.domain.model import Row
from reconciler.kie.dialects import Dialect, by_name, candidates


@dataclass(frozen=True, slots=True)
class RingKey:
    """One of the keys, by its hash; `kind` is the kind of media that is made with it, None for any."""

    key_hash: str
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request about a task goes."""

    dialect: Dialect
    key_hash: str


def route(row: Row, keys: Sequence[RingKey]) -> Route:
    """Return how to ask about this row's task next; the row has a task, and there is at least one key."""
    known = {key.key_hash for key in keys}
    if row.acknowledged_at is not None and row.key_hash in known and row.key_hash is not None:
        dialect = by_name(row.family) if row.family else None
        if dialect is not None:
            return Route(dialect, row.key_hash)
    ordered = ring(row, keys)
    rounds, index = divmod(row.unknowns, len(ordered))
    return Route(_candidate(candidates(row.model, row.task_id or ""), rounds), ordered[index].key_hash)


def offered_dialect(row: Row, task_id: str) -> Dialect:
    """Return the dialect in which to ask about a task that a callback offers to a row: that of its order, if known."""
    ordered = by_name(row.family) if row.family else None
    return ordered or _candidate(candidates(row.model, task_id), row.failures)


def ring(row: Row, keys: Sequence[RingKey]) -> list[RingKey]:
    """Return the keys in the order in which they are tried: those for this kind of media come first."""
    return sorted(keys, key=lambda key: _distance(key, row.kind))


def makers(keys: Sequence[RingKey], kind: str) -> tuple[RingKey, ...]:
    """Return the keys that tasks of this kind are made with: those meant for it, else those for anything, else all."""
    nearest = min(_distance(key, kind) for key in keys)
    return tuple(key for key in keys if _distance(key, kind) == nearest)


def _candidate(dialects: Sequence[Dialect], rounds: int) -> Dialect:
    """Return the likeliest dialect every second round, for KIE can be slow to know a task, else the others in turn."""
    if rounds % 2 == 0 or len(dialects) == 1:
        return dialects[0]
    return dialects[1 + rounds // 2 % (len(dialects) - 1)]


def _distance(key: RingKey, kind: str | None) -> int:
    """Return 0 for a key of this kind, 1 for a key of any kind, 2 for a key of another kind."""
    if key.kind is None:
        return 1
    return 0 if key.kind == kind else 2
