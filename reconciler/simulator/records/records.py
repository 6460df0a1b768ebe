"""The twins of KIE's dialects: what each family's status route says about a task, as `data` of the envelope. Pure.

Shapes come from the API's documents and from recorded answers; they are written here independently of the readers in
`reconciler/providers`, so that the two can disagree. `families.py` says which route belongs to which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.simulator.tasks import NULL, SimulatedTask

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Scene:
    """A task at one moment: everything a record may tell; times are Unix seconds."""

    task: SimulatedTask
    state: str
    results: tuple[str, ...]
    covers: tuple[str, ...]
    created: float
    completed: float | None
    blanks: bool = False
    extras: bool = False
    cost_in_ms: bool = False
    fault: str | None = None

    @property
    def done(self) -> bool:
        """Whether it ended well."""
        return self.state == "success"

    @property
    def failed(self) -> bool:
        """Whether it ended badly."""
        return self.state == "fail"

    @property
    def first(self) -> str:
        """The first result's address, "" where there is none."""
        return self.results[0] if self.results else ""

    @property
    def still(self) -> str:
        """The address of the picture that comes along, "" where there is none."""
        return self.covers[0] if self.covers else ""

    @property
    def flag(self) -> int:
        """The successFlag most families use: 0 running, 1 done, 2 refused at creation, 3 failed later."""
        if self.failed:
            return 2 if self.task.failure.code == "400" else 3
        return int(self.done)

    @property
    def error(self) -> Json:
        """What went wrong as most families name it; errorCode is a number."""
        if not self.failed:
            return {"errorCode": None, "errorMessage": None if not self.done else ""}
        code = self.task.failure.code
        return {"errorCode": int(code) if code.isdigit() else 500, "errorMessage": self.task.failure.message}

    def millis(self, at: float | None) -> int | None:
        """A time as KIE's newer pages write it."""
        return None if at is None else int(at * 1000)

    def words(self, at: float | None) -> str | None:
        """A time as the older pages write it, without a zone."""
        return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")

    def iso(self, at: float | None) -> str | None:
        """A time with a zone."""
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")

    def when_done(self, response: Json) -> Json | str | None:
        """A response that only a finished task has; a broken one where a fault strikes."""
        if not self.done or self.fault == "null":
            return None
        return json.dumps(response)[:-9] if self.fault == "invalid_json" else response


def market(scene: Scene) -> Json:
    """The ten keys that every recorded answer had, and three more on demand."""
    task = scene.task
    nothing = "" if scene.blanks else None
    cost = None
    if scene.completed is not None:
        cost = int((scene.completed - scene.created) * (1000 if scene.cost_in_ms else 1))
    record: Json = {
        "taskId": task.id,
        "model": task.model,
        "state": scene.state,
        "param": task.param,
        "resultJson": _result(scene) if scene.done else "",
        "failCode": task.failure.code if scene.failed else nothing,
        "failMsg": task.failure.message if scene.failed else nothing,
        "costTime": cost,
        "completeTime": scene.millis(scene.completed),
        "createTime": scene.millis(scene.created),
    }
    if scene.extras:
        record["updateTime"] = scene.millis(scene.completed or scene.created)
        record["progress"] = 100 if scene.done else 0
        record["creditsConsumed"] = 4.25 if scene.done else 0
    return record


def _result(scene: Scene) -> object:
    wrap = scene.task.wrap
    result = wrap(scene.results) if wrap else {"resultUrls": list(scene.results)}
    match scene.fault:
        case "invalid_json":
            return json.dumps(result, separators=(",", ":"))[:-9]
        case "object":
            return result
        case "null":
            return None
        case _:
            return json.dumps(result, separators=(",", ":"))


def veo(scene: Scene) -> Json:
    """Veo 3.1: a flag, a response, times in words."""
    urls = [] if scene.task.variant == "empty" else list(scene.results)
    response: Json = {"taskId": scene.task.id, "resultUrls": urls, "originUrls": None, "resolution": "720p"}
    return {
        "taskId": scene.task.id,
        "paramJson": scene.task.param,
        "completeTime": scene.words(scene.completed),
        "response": scene.when_done(response),
        "successFlag": scene.flag,
        **scene.error,
        "createTime": scene.words(scene.created),
        "fallbackFlag": False,
    }


def runway(scene: Scene) -> Json:
    """Runway: states of its own, one film, failCode a number."""
    states = {"waiting": "wait", "queuing": "queueing", NULL: "wait"}
    video = {"videoId": f"v-{scene.task.id}", "taskId": scene.task.id, **_film(scene, "videoUrl", "imageUrl")}
    code = scene.task.failure.code
    return {
        "taskId": scene.task.id,
        "parentTaskId": "",
        "generateParam": {"prompt": "a film", "imageUrl": "", "expandPrompt": True},
        "state": states.get(scene.state, scene.state),
        "generateTime": scene.words(scene.created),
        "videoInfo": scene.when_done(video),
        "failCode": (int(code) if code.isdigit() else 500) if scene.failed else 0,
        "failMsg": scene.task.failure.message if scene.failed else "",
        "expireFlag": 0,
    }


def _film(scene: Scene, film: str, still: str) -> Json:
    return {film: scene.first, still: scene.still}


def aleph(scene: Scene) -> Json:
    """Aleph: flag 0 is running and failed alike, only the error tells them apart."""
    return {
        "taskId": scene.task.id,
        "paramJson": scene.task.param,
        "response": scene.when_done({"taskId": scene.task.id, **_film(scene, "resultVideoUrl", "resultImageUrl")}),
        "completeTime": scene.iso(scene.completed),
        "createTime": scene.iso(scene.created),
        "successFlag": int(scene.done),
        "errorCode": scene.error["errorCode"] or 0,
        "errorMessage": scene.error["errorMessage"] or "",
    }
