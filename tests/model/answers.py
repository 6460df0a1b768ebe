"""What KIE answers about a finished task: which results it lists, which are blank, and which words stand beside them.

`Answer` makes the record of one task; the machine changes it. `Told` is one success as KIE said it, read from outside.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from reconciler.simulator import Simulator

WORDS: Mapping[str, Any] = {"text": "good evening", "words": [{"text": "good", "start": 0.1}]}
"""What `resultObject` holds where words are a result: a document, and plain text."""

LIMIT = 4
"""So many results of one task are allowed until the operator allows more."""

FORMS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "with ids": {"ids": True},
    "last blank": {"blank": (-1,)},
    "last blank, with ids": {"blank": (-1,), "ids": True},
    "first blank": {"blank": (0,)},
    "first blank for good": {"blank": (0,), "final": True},
    "last blank for good": {"blank": (-1,), "final": True},
    "words beside": {"words": True},
    "words beside, last blank": {"words": True, "blank": (-1,)},
    "words alone": {"words": True},
    "empty": {"empty": True},
    "empty for good": {"empty": True, "final": True},
    "too many": {},
    "unreadable": {"unreadable": True},
    "unreadable for good": {"unreadable": True, "final": True},
}
"""The forms in which KIE answers, by name. A form that is not for good becomes whole when KIE is told to."""


@dataclass
class Answer:
    """How KIE answers about one task; the `wrap` of its simulated task.

    `blank` and `left_out` are numbers of results. With `final` none of that ever changes. `changed` is true once its
    list was not whole or has grown: without ids nobody can tell then which entry is which, if others move as well.
    """

    ids: bool = False
    blank: set[int] = field(default_factory=set)
    left_out: set[int] = field(default_factory=set)
    backwards: bool = False
    words: bool = False
    empty: bool = False
    unreadable: bool = False
    final: bool = False
    changed: bool = False

    def __call__(self, urls: Sequence[str]) -> object:
        if self.empty or not (urls or self.words):
            return {"resultUrls": []}
        if self.unreadable:
            return {"resultUrls": [{"film": list(urls)}]}
        entries = [self._entry(n, urls[n]) for n in self.listed(len(urls))]
        said: dict[str, object] = {"resultUrls": entries} if urls else {}
        return {**said, "resultObject": WORDS} if self.words else said

    def listed(self, count: int) -> list[int]:
        """The numbers of the results that it lists, in its order."""
        numbers = [n for n in range(count) if n not in self.left_out]
        return numbers[::-1] if self.backwards else numbers

    def _entry(self, n: int, url: str) -> object:
        address = None if n in self.blank else url
        return {"id": f"result-{n}", "url": address} if self.ids else address

    @property
    def may_move(self) -> bool:
        """Whether a client can tell its results apart although they move."""
        return self.ids or not self.changed

    @property
    def may_change(self) -> bool:
        """Whether a client can tell its results apart although some come or go."""
        return self.ids or not (self.left_out or self.backwards)

    def fill(self) -> None:
        """Let KIE give all that it has."""
        if not self.final:
            self.blank, self.left_out, self.empty, self.unreadable = set(), set(), False, False


def answer(form: str, count: int) -> Answer:
    """A new answer in this form, about so many results."""
    fields = dict(FORMS[form])
    blank: Collection[int] = fields.pop("blank", ())
    return Answer(blank={n % count for n in blank}, changed=bool(blank), **fields)


def results_of(form: str, count: int) -> int:
    """How many results a task of this form has."""
    return {"words alone": 0, "too many": LIMIT + 1}.get(form, count)


@dataclass(frozen=True)
class Told:
    """A success as KIE told it at a moment: the results that it gave, all that it announced, whether it gave words.

    `asked` is false for a callback.
    """

    at: float
    asked: bool
    given: frozenset[int]
    announced: frozenset[int]
    words: bool
    readable: bool

    @property
    def empty(self) -> bool:
        """Whether it gave nothing, and nothing that could not be read."""
        return self.readable and not self.given and not self.words


def told(kie: Simulator, record: object, at: float, *, asked: bool) -> tuple[str, Told] | None:
    """The task of a record, and what it tells; None where it is no success of a known task."""
    if not isinstance(record, dict) or record.get("state") != "success" or record.get("taskId") not in kie.tasks:
        return None
    task = kie.tasks[record["taskId"]]
    result = record["resultJson"]
    try:
        said = json.loads(result) if isinstance(result, str) else result
        entries = [entry["url"] if isinstance(entry, dict) else entry for entry in said.get("resultUrls", ())]
    except (ValueError, KeyError):
        return task.id, Told(at, asked, frozenset(), frozenset(), words=False, readable=False)
    files = (kie._files.get(urlsplit(entry).path) for entry in entries if entry)
    given = frozenset(found[1] for found in files if found is not None and found[0].id == task.id)
    blank = task.wrap.blank if isinstance(task.wrap, Answer) and None in entries else set()
    return task.id, Told(at, asked, given, given | frozenset(blank), "resultObject" in said, readable=True)
