"""The records of the dialects that make images, and of Luma, whose records look like theirs. Pure; see `records.py`."""

from __future__ import annotations

from reconciler.simulator.records.records import Json, TaskSnapshot


def gpt4o(snapshot: TaskSnapshot) -> Json:
    """4o: a flag and a status, progress in words; one page spells the results in snake case."""
    key = "result_urls" if snapshot.task.variant == "snake" else "resultUrls"
    working = "PROCESSING" if snapshot.task.variant == "processing" else "GENERATING"
    status = "SUCCESS" if snapshot.done else working
    if snapshot.failed:
        status = "CREATE_TASK_FAILED" if snapshot.task.failure.code == "400" else "GENERATE_FAILED"
    flag = 2 if snapshot.failed else int(snapshot.done)
    return {
        "taskId": snapshot.task.id,
        "paramJson": snapshot.task.param,
        "completeTime": snapshot.millis(snapshot.completed),
        "response": snapshot.when_done({key: snapshot.entries}),
        "successFlag": flag,
        "status": status,
        **snapshot.error,
        "createTime": snapshot.millis(snapshot.created),
        "progress": "1.00" if snapshot.done else "0.00",
    }


def flux_kontext(snapshot: TaskSnapshot) -> Json:
    """Flux Kontext: one picture, and the one it was made from."""
    response: Json = {
        "originImageUrl": snapshot.still,
        "resultImageUrl": snapshot.first,
    }
    return {
        "taskId": snapshot.task.id,
        "paramJson": snapshot.task.param,
        "completeTime": snapshot.iso(snapshot.completed),
        "response": snapshot.when_done(response),
        "successFlag": snapshot.flag,
        **snapshot.error,
        "createTime": snapshot.iso(snapshot.created),
    }


def midjourney(snapshot: TaskSnapshot) -> Json:
    """Midjourney: results are objects, each with its address inside."""
    results: Json = {"resultUrls": [{"resultUrl": url} for url in snapshot.entries]}
    return {
        "taskId": snapshot.task.id,
        "taskType": "mj_txt2img",
        "paramJson": snapshot.task.param,
        "completeTime": snapshot.iso(snapshot.completed),
        "resultInfoJson": snapshot.when_done(results),
        "successFlag": snapshot.flag,
        **snapshot.error,
        "createTime": snapshot.iso(snapshot.created),
    }


def luma(snapshot: TaskSnapshot) -> Json:
    """Luma: flag 4 means that the film is there and only the callback could not be delivered."""
    undelivered = snapshot.done and snapshot.task.variant == "undelivered"
    response: Json = {"taskId": snapshot.task.id, "resultUrls": snapshot.entries, "originUrls": []}
    return {
        "taskId": snapshot.task.id,
        "promptJson": snapshot.task.param,
        "completeTime": snapshot.millis(snapshot.completed),
        "response": snapshot.when_done(response),
        "successFlag": 4 if undelivered else snapshot.flag,
        **snapshot.error,
        "createTime": snapshot.millis(snapshot.created),
    }
