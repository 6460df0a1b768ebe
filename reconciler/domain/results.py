"""The results of a task over several answers: which announced result is which, and in which order they stand.

KIE may announce a result before it has an address, add results later, or leave one out. A result is known again by
KIE's own id, else by an address, else by its position; its number `n` stays, because receipts refer to it. Pure.
`absorb` calls `merge`; the ledger keeps the results as JSON.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import Any

from reconciler.domain.model import Result

_FIELDS = ("key", "n", "text", "mime", "current", "confirmed")


def position_key(position: int) -> str:
    """Return the key of a result that KIE gives no id."""
    return f"#{position}"


def from_addresses(addresses: Iterable[str]) -> tuple[Result, ...]:
    """Return one result for each address, in this order."""
    return tuple(Result(position_key(n), n, (address,)) for n, address in enumerate(addresses))


def merge(known: Sequence[Result], announced: Sequence[Result]) -> tuple[Result, ...]:
    """Return the results after a further answer, in its order; those that it leaves out keep their neighbours.

    A result that the answer leaves out, or lists without an address, keeps what earlier answers gave and is no longer
    `current`.
    """
    earlier = _matches(known, announced)
    taken = {result.n for result in known}
    merged: list[Result] = []
    for position, result in enumerate(announced):
        before = earlier.get(position)
        n = before.n if before is not None else _free_number(position, taken)
        taken.add(n)
        merged.append(_updated(before, result, n))
    left_out = {result.n for result in known} - {before.n for before in earlier.values()}
    for index, result in enumerate(known):
        if result.n in left_out:
            merged.insert(_place_after(merged, known[:index]), replace(result, current=False))
    return tuple(merged)


def to_json(results: Iterable[Result]) -> list[dict[str, object]]:
    """Return the results as the ledger keeps them."""
    return [
        {name: getattr(result, name) for name in _FIELDS} | {"addresses": list(result.addresses)} for result in results
    ]


def from_json(kept: Iterable[Mapping[str, Any]]) -> tuple[Result, ...]:
    """Return the results that the ledger kept; another version's further fields are ignored."""
    return tuple(
        Result(addresses=tuple(one["addresses"]), **{name: one[name] for name in _FIELDS if name in one})
        for one in kept
    )


def _matches(known: Sequence[Result], announced: Sequence[Result]) -> dict[int, Result]:
    """Return the known result of each announced one, by position in the answer."""
    found: dict[int, Result] = {}
    by_id = {result.key: result for result in known if not _is_position(result.key)}
    by_address: dict[str, list[Result]] = {}
    for result in known:
        for address in result.addresses:
            by_address.setdefault(address, []).append(result)
    by_position = {position_key(position): result for position, result in enumerate(known)}
    by_position |= {result.key: result for result in known if _is_position(result.key)}
    claimed: set[int] = set()

    def claim(position: int, result: Result | None) -> None:
        if result is not None and result.n not in claimed:
            found[position] = result
            claimed.add(result.n)

    # What is certain is matched first, so that a position claims nothing that an id or an address names.
    for position, result in enumerate(announced):
        claim(position, by_id.get(result.key))
    for position, result in enumerate(announced):
        if position not in found:
            same = (one for address in result.addresses for one in by_address.get(address, ()) if one.n not in claimed)
            claim(position, next(same, None))
    for position, result in enumerate(announced):
        before = by_position.get(position_key(position))
        if position not in found and before is not None and _may_be_same(before, result):
            claim(position, before)
    return found


def _may_be_same(before: Result, result: Result) -> bool:
    """Whether two results at one position can be the same: two ids never are, nor are media and words."""
    one_id = _is_position(before.key) or _is_position(result.key)
    return one_id and (before.text is None) == (result.text is None)


def _updated(before: Result | None, result: Result, n: int) -> Result:
    if before is not None and before.available and before.confirmed and not result.confirmed:
        # A callback may be forged: it does not change what KIE's own record has given.
        return before
    # KIE's id stays known where a later answer leaves it out.
    key = result.key if before is None or not _is_position(result.key) else before.key
    if before is None or result.available:
        return replace(result, key=key, n=n, current=result.available)
    return replace(before, key=key, current=False, confirmed=before.confirmed or result.confirmed)


def _is_position(key: str) -> bool:
    return key.startswith("#")


def _free_number(position: int, taken: set[int]) -> int:
    """Return the position where no other result has this number, else the lowest free number."""
    return next(n for n in chain((position,), count()) if n not in taken)


def _place_after(merged: Sequence[Result], predecessors: Sequence[Result]) -> int:
    """Return the index behind the nearest predecessor that is in the list, 0 where none is."""
    index = {result.n: position for position, result in enumerate(merged)}
    return next((index[result.n] + 1 for result in reversed(predecessors) if result.n in index), 0)
