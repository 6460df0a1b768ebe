"""Literal answers of a record page: a test says word for word what KIE answers about one task, and in which order.

Use it where the plans of `task_plans.py` and the faults of `faults.py` have no name for what is wanted:

    blank = {"taskId": "task:id", "status": "SUCCESS", "response": {"sunoData": [{"id": "a", "audioUrl": ""}]}}
    whole = {"taskId": "task:id", "status": "SUCCESS", "response": {"sunoData": [{"id": "a", "audioUrl": "file:0"}]}}
    task = kie.add_task(
        family="suno", results=[SONG], answers=[LiteralAnswer(blank, seconds=60), LiteralAnswer(whole)]
    )

Each answer is given to its number of polls, or for its simulated `seconds` (`kie.skip` passes them); the last one
repeats. `file:0` anywhere in a record, also within a string of JSON, becomes the address of the first result of the
task, `file:1` that of the next file; `task:id` becomes the id of the task. `kie.answer_with(task_id, …)` replaces the
answers of a task that exists. `kie.orders` and `kie.usual` take them too, for tasks that are created over HTTP. The
callback of a market task carries the answer of that moment; other dialects send the callback of their own plan. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PLACE = re.compile(r"(?<![\w:/])(?:file:(\d+)|task:id)(?![\w/])")


@dataclass(frozen=True, slots=True)
class LiteralAnswer:
    """One answer: `record` is its `data`, in an envelope of `code` and `message`.

    It is given to `polls` polls, or until `seconds` simulated seconds have passed since it became the current one.
    """

    record: object
    code: object = 200
    message: str = "success"
    polls: int = 1
    seconds: float | None = None

    @classmethod
    def of(cls, envelope: Mapping[str, object], *, polls: int = 1, seconds: float | None = None) -> LiteralAnswer:
        """Return the answer of a whole envelope: `code`, `msg` and `data`."""
        message = str(envelope.get("msg", "success"))
        return cls(envelope.get("data"), envelope.get("code", 200), message, polls, seconds)

    def body(self, task_id: str, addresses: Sequence[str]) -> bytes:
        """Return the JSON of the answer, its places filled in; raise ValueError for a file that the task has not."""
        text = json.dumps({"code": self.code, "msg": self.message, "data": self.record}, separators=(",", ":"))

        def filled(place: re.Match[str]) -> str:
            if place[1] is None:
                return task_id
            if int(place[1]) >= len(addresses):
                raise ValueError(f"an answer names file:{place[1]}, and task {task_id} has {len(addresses)} files")
            return addresses[int(place[1])]

        return _PLACE.sub(filled, text).encode()


class LiteralAnswers:
    """The answers of one task, and which one is current."""

    def __init__(self, answers: Sequence[LiteralAnswer], now: float) -> None:
        if not answers:
            raise ValueError("a task needs at least one literal answer")
        self._answers = tuple(answers)
        self._index = 0
        self._given = 0
        self._since = now

    def current(self, now: float) -> LiteralAnswer:
        """Return the answer of this simulated time; a poll that gets it must be counted by `count`."""
        while self._index + 1 < len(self._answers):
            answer = self._answers[self._index]
            if answer.seconds is None:
                if self._given < answer.polls:
                    break
                self._since = now
            else:
                if now - self._since < answer.seconds:
                    break
                self._since += answer.seconds
            self._index += 1
            self._given = 0
        return self._answers[self._index]

    def count(self) -> None:
        """Count one poll that got the current answer."""
        self._given += 1
