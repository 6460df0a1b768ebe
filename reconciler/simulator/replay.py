"""Recorded tasks, lived again: the same ids, models, parameters and states at the same moments, with files made up.

Reads folders of recordings: one JSON file a task, `polls` with the answers and when they came. Called by `serve.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from reconciler.errors import Config
from reconciler.simulator.faults import draw
from reconciler.simulator.media import files
from reconciler.simulator.media.files import MediaSpec
from reconciler.simulator.task_plans import SIZES
from reconciler.simulator.tasks import Failure, TaskSpec
from reconciler.simulator.world import World


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded task; `seconds` is how long it took by the provider's own clock."""

    task_id: str
    model: str
    param: str
    steps: tuple[tuple[str, float], ...]
    end: str
    failure: Failure
    paths: tuple[str, ...]

    def order(self, *, size: int | None, seed: int = 0) -> TaskSpec:
        """What makes the same task again; files get `size` bytes, or what is usual for their kind."""
        results = [_file(path, size, draw(seed, self.task_id, path)) for path in self.paths]
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
    """Every recording in a folder, in the order of the files' names; Config for one that cannot be read.

    Other files are passed over.
    """
    found = (_loaded(file) for file in sorted(folder.glob("*.json")))
    return [recording for recording in found if recording is not None]


def play(world: World, recordings: Sequence[Recording]) -> list[str]:
    """Begin every recorded task now, and let new tasks of the same models take the same course; the ids."""
    ids = []
    for recording in recordings:
        order = recording.order(size=world.media_size, seed=world.seed)
        ids.append(world.add_task(**order))
        again: TaskSpec = {
            "life": recording.steps,
            "fate": recording.end,
            "failure": recording.failure,
            "results": [MediaSpec(kind=file.kind, ext=file.ext, size=file.size) for file in order["results"]],
        }
        world.usual[recording.model] = again
    return ids


def _loaded(file: Path) -> Recording | None:
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        return _read(recorded) if isinstance(recorded, dict) and recorded.get("polls") else None
    except (ValueError, TypeError, LookupError) as error:
        raise Config(f"{file} is no recording of a task", hint="correct it, or take it out of the folder") from error


def _read(recorded: Mapping[str, Any]) -> Recording:
    seen = [(float(poll["at"]), poll["body"]["data"]) for poll in recorded["polls"] if "body" in poll]
    last = seen[-1][1]
    result = json.loads(str(last["resultJson"] or "{}"))
    return Recording(
        task_id=str(recorded["task_id"]),
        model=str(last["model"]),
        param=str(last["param"]),
        steps=_steps(seen),
        end="fail" if last["state"] == "fail" else "success",
        failure=Failure(str(last["failCode"] or "500"), str(last["failMsg"] or "Internal server error")),
        paths=tuple(urlsplit(url).path for url in result.get("resultUrls", ())),
    )


def _steps(seen: Sequence[tuple[float, Mapping[str, Any]]]) -> tuple[tuple[str, float], ...]:
    """States from one sighting to the next, the last until the provider's completeTime."""
    last = seen[-1][1]
    total = (int(last["completeTime"]) - int(last["createTime"])) / 1000
    begun = [at - seen[0][0] for at, _ in seen[:-1]]
    ends = [*begun[1:], total]
    return tuple((str(said["state"]), end - at) for at, end, (_, said) in zip(begun, ends, seen, strict=False))


def _file(path: str, size: int | None, drawn: float) -> MediaSpec:
    ext = PurePosixPath(path).suffix.lstrip(".").lower()
    form = {"jpeg": "jpg"}.get(ext, ext)
    kind = files.MIME[form].partition("/")[0]
    low, high = SIZES[kind]
    return MediaSpec(kind=kind, ext=ext, path=path, size=int(low + (high - low) * drawn) if size is None else size)
