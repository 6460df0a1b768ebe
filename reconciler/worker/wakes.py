"""The wakes that no claim has taken yet: the requested ones first, in order, then the announced ones.

Of these the oldest and the newest take turns, so that a row inserted after many others does not wait for all of them.

A wake is a hint: one of a row that is in flight, one of a row that has ended long ago, or one of no row at all.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

from reconciler.domain.model import Trigger

BATCH = 500
"""The most announced generations that one statement looks at; those that are not ours cost nothing more."""


def _ends_in_turns(names: Sequence[str], count: int) -> list[str]:
    """Return the first name, the last one, the second, the last but one, and so on."""
    count = min(count, len(names))
    return [names[n // 2] if n % 2 == 0 else names[-1 - n // 2] for n in range(count)]


class Wakes:
    """Wakes by generation; a second wake of a generation keeps the place of the first.

    The newest `few` announced generations wait here for a place. Of the older ones a batch is taken at once, whether
    there are places or not: the statement drops what is not ours, and lets the rest become due.
    """

    def __init__(self, few: int) -> None:
        self._few = few
        self._requested: dict[str, Trigger] = {}
        self._announced: dict[str, Trigger] = {}

    def __len__(self) -> int:
        return len(self._requested) + len(self._announced)

    def add(self, generation_id: str, trigger: Trigger) -> None:
        """Note a wake; what a person or a callback asked for is not taken back by a notification."""
        if trigger is not Trigger.NOTIFY:
            self._announced.pop(generation_id, None)
            self._requested[generation_id] = trigger
        elif generation_id not in self._requested:
            self._announced.setdefault(generation_id, trigger)

    def take(self, places: int) -> dict[str, Trigger]:
        """Remove and return the next wakes: the requested ones for so many places, then announced ones."""
        names = list(self._announced)
        taken = dict(islice(self._requested.items(), max(places, 0)))
        chosen = _ends_in_turns(names, max(places, 0)) + names[: min(max(len(names) - self._few, 0), BATCH)]
        taken |= {name: self._announced[name] for name in chosen}
        for generation_id in taken:
            self._requested.pop(generation_id, None)
            self._announced.pop(generation_id, None)
        return taken

    def put_back(self, wakes: Mapping[str, Trigger]) -> None:
        """Note wakes again, before all others: the statement that took them has failed."""
        later = self._requested | self._announced
        self.clear()
        for generation_id, trigger in (*wakes.items(), *later.items()):
            self.add(generation_id, trigger)

    def any(self, places: int) -> bool:
        """Return whether `take` would return anything."""
        return len(self._announced) > self._few or (places > 0 and len(self) > 0)

    def clear(self) -> None:
        """Forget every wake; the sweep finds their rows."""
        self._requested.clear()
        self._announced.clear()
