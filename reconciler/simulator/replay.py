"""Replays recorded tasks: the same ids, models, parameters and states at the same times, with generated files.

A recording is one JSON file for each task, with `polls`: the answers and their times. `serve.py` calls this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from reconciler.errors import Config
from reconciler.simulator.faults import random_number
from reconciler.simulator.media import files
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.task_plans import SIZES
from reconciler.simulator.tasks import Failure, TaskSpec
from reconciler.simulator.world import World


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded task; the steps are states and their seconds, by the provider's clock."""

    task_id: str
    model: str
    param: str
    steps: tuple[tuple[str, float], ...]
    end: str
    failure: Failure
    paths: tuple[str, ...]

    def order(self, *, size: int | None, seed: int = 0) -> TaskSpec:
        """Return the description of the same task; files get `size` bytes, or a random size of their kind."""
        results = [_file(path, size, random_number(seed, self.task_id, path)) for path in self.paths]
        return {
            "task_id": self.task_id,
            "model": self.model,
            "param": self.param,
            "life": self.steps,
            "fate": self.end,
            "failure": self.failure,
            "results": results,
        }


def load(folder: Path) -> list[Recording]:
    """Return every recording in a folder, in the order of file names; raise Config for an invalid one.

    JSON files without `polls` are skipped.
    """
    loaded = (_loaded(file) for file in sorted(folder.glob("*.json")))
    return [recording for recording in loaded if recording is not None]


def play(world: World, recordings: Sequence[Recording]) -> list[str]:
    """Start every recorded task now and return the ids; new tasks of the same models take the same course."""
    ids = []
    for recording in recordings:
        order = recording.order(size=world.media_size, seed=world.seed)
        ids.append(world.add_task(**order))
        same_course: TaskSpec = {
            "life": recording.steps,
            "fate": recording.end,
            "failure": recording.failure,
            "results": [MediaSpec(kind=file.kind, ext=file.ext, size=file.size) for file in order["results"]],
        }
        world.usual[recording.model] = same_course
    return ids


def _loaded(file: Path) -> Recording | None:
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        return _read(recorded) if isinstance(recorded, dict) and recorded.get("polls") else None
    except (ValueError, TypeError, LookupError) as error:
        raise Config(f"{file} is no recording of a task", hint="correct it, or remove it from the folder") from error


def _read(recorded: Mapping[str, Any]) -> Recording:
    answers = [(float(poll["at"]), poll["body"]["data"]) for poll in recorded["polls"] if "body" in poll]
    last = answers[-1][1]
    result = json.loads(str(last["resultJson"] or "{}"))
    return Recording(
        task_id=str(recorded["task_id"]),
        model=str(last["model"]),
        param=str(last["param"]),
        steps=_steps(answers),
        end="fail" if last["state"] == "fail" else "success",
        failure=Failure(str(last["failCode"] or "500"), str(last["failMsg"] or "Internal server error")),
        paths=tuple(urlsplit(url).path for url in result.get("resultUrls", ())),
    )


def _steps(answers: Sequence[tuple[float, Mapping[str, Any]]]) -> tuple[tuple[str, float], ...]:
    """Return the states from one poll to the next, the last one until the provider's completeTime."""
    last = answers[-1][1]
    total = (int(last["completeTime"]) - int(last["createTime"])) / 1000
    starts = [at - answers[0][0] for at, _ in answers[:-1]]
    ends = [*starts[1:], total]
    return tuple(
        (str(record["state"]), end - start) for start, end, (_, record) in zip(starts, ends, answers, strict=False)
    )


def _file(path: str, size: int | None, fraction: float) -> MediaSpec:
    ext = PurePosixPath(path).suffix.lstrip(".").lower()
    form = {"jpeg": "jpg"}.get(ext, ext)
    kind = files.MIME[form].partition("/")[0]
    low, high = SIZES[kind]
    return MediaSpec(kind=kind, ext=ext, path=path, size=int(low + (high - low) * fraction) if size is None else size)
