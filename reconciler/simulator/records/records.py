"""The records of KIE's dialects: what each family's status route says about a task, as `data` of the envelope. Pure.

The forms come from KIE's documentation and from recorded answers. They are written independently of the readers in
`reconciler/kie/dialects`, so that tests compare the two. `dialects.py` says which route belongs to which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.simulator.tasks import NULL, SimulatedTask

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A task at one moment, with everything that a record may contain; times are Unix seconds.

    A result that has not arrived yet is "" in `results`; `place` is the unusual place of the results, "" for the
    usual one.
    """

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
    place: str = ""

    @property
    def entries(self) -> list[str | None]:
        """The results as entries of a list, null for one that has not arrived yet."""
        return [url or None for url in self.results]

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


def market(snapshot: TaskSnapshot) -> Json:
    """The ten keys that every recorded answer had, and three more on demand."""
    task = snapshot.task
    nothing = "" if snapshot.blanks else None
    cost = None
    if snapshot.completed is not None:
        cost = int((snapshot.completed - snapshot.created) * (1000 if snapshot.cost_in_ms else 1))
    record: Json = {
        "taskId": task.id,
        "model": task.model,
        "state": snapshot.state,
        "param": task.param,
        "resultJson": _result(snapshot) if snapshot.done else "",
        "failCode": task.failure.code if snapshot.failed else nothing,
        "failMsg": task.failure.message if snapshot.failed else nothing,
        "costTime": cost,
        "completeTime": snapshot.millis(snapshot.completed),
        "createTime": snapshot.millis(snapshot.created),
    }
    if snapshot.extras:
        record["updateTime"] = snapshot.millis(snapshot.completed or snapshot.created)
        record["progress"] = 100 if snapshot.done else 0
        record["creditsConsumed"] = 4.25 if snapshot.done else 0
    return record


def _result(snapshot: TaskSnapshot) -> object:
    result = _wrapped(snapshot)
    match snapshot.fault:
        case "invalid_json":
            return json.dumps(result, separators=(",", ":"))[:-9]
        case "object":
            return result
        case "null":
            return None
        case _:
            return json.dumps(result, separators=(",", ":"))


def _wrapped(snapshot: TaskSnapshot) -> object:
    if snapshot.task.wrap:
        return snapshot.task.wrap(snapshot.results)
    if snapshot.place == "watermark":
        return {"resultUrls": [], "resultWaterMarkUrls": snapshot.entries}
    if snapshot.covers:
        return {"resultUrls": snapshot.entries, "firstFrameUrl": [], "lastFrameUrl": list(snapshot.covers)}
    return {"resultUrls": snapshot.entries}


def veo(snapshot: TaskSnapshot) -> Json:
    """Veo 3.1: a flag, a response, times in words; the record of a 4K film has no fallbackFlag."""
    ultra = snapshot.task.variant == "4k"
    info = snapshot.when_done({"resultUrls": snapshot.entries, "resolution": "720p"})
    return {
        "taskId": snapshot.task.id,
        "paramJson": snapshot.task.param,
        "completeTime": snapshot.words(snapshot.completed),
        "response": None if snapshot.place == "info" else snapshot.when_done(_veo_response(snapshot)),
        "successFlag": snapshot.flag,
        **snapshot.error,
        "createTime": snapshot.words(snapshot.created),
        **({"info": info} if snapshot.place == "info" else {}),
        **({} if ultra else {"fallbackFlag": False}),
    }


def _veo_response(snapshot: TaskSnapshot) -> Json:
    urls = [] if snapshot.task.variant == "empty" else snapshot.entries
    response: Json = {"taskId": snapshot.task.id, "resultUrls": urls, "originUrls": None, "resolution": "720p"}
    if snapshot.place == "full":
        response |= {"resultUrls": [], "fullResultUrls": urls}
    if snapshot.task.variant == "4k":
        response |= {"resolution": "4k", "mediaIds": [f"m-{snapshot.task.id}"], "imageUrls": []}
    return response


def runway(snapshot: TaskSnapshot) -> Json:
    """Runway: states of its own, one film, failCode a number."""
    states = {"waiting": "wait", "queuing": "queueing", NULL: "wait"}
    video = {"videoId": f"v-{snapshot.task.id}", "taskId": snapshot.task.id, **_video(snapshot, "videoUrl", "imageUrl")}
    code = snapshot.task.failure.code
    return {
        "taskId": snapshot.task.id,
        "parentTaskId": "",
        "generateParam": {"prompt": "a film", "imageUrl": "", "expandPrompt": True},
        "state": states.get(snapshot.state, snapshot.state),
        "generateTime": snapshot.words(snapshot.created),
        "videoInfo": snapshot.when_done(video),
        "failCode": (int(code) if code.isdigit() else 500) if snapshot.failed else 0,
        "failMsg": snapshot.task.failure.message if snapshot.failed else "",
        "expireFlag": 0,
    }


def _video(snapshot: TaskSnapshot, film: str, still: str) -> Json:
    return {film: snapshot.first, still: snapshot.still}


def aleph(snapshot: TaskSnapshot) -> Json:
    """Aleph: flag 0 is running and failed alike, only the error tells them apart."""
    return {
        "taskId": snapshot.task.id,
        "paramJson": snapshot.task.param,
        "response": snapshot.when_done(
            {"taskId": snapshot.task.id, **_video(snapshot, "resultVideoUrl", "resultImageUrl")}
        ),
        "completeTime": snapshot.iso(snapshot.completed),
        "createTime": snapshot.iso(snapshot.created),
        "successFlag": int(snapshot.done),
        "errorCode": snapshot.error["errorCode"] or 0,
        "errorMessage": snapshot.error["errorMessage"] or "",
    }
