"""The twins of the dialects that make pictures, and of Luma, whose records look like theirs. Pure; see `records.py`."""

from __future__ import annotations

from reconciler.simulator.records.records import Json, Scene


def gpt4o(scene: Scene) -> Json:
    """4o: a flag and a status, progress in words; one page spells the results in snake case."""
    key = "result_urls" if scene.task.variant == "snake" else "resultUrls"
    status = "SUCCESS" if scene.done else "GENERATING"
    if scene.failed:
        status = "CREATE_TASK_FAILED" if scene.task.failure.code == "400" else "GENERATE_FAILED"
    flag = 2 if scene.failed else int(scene.done)
    return {
        "taskId": scene.task.id,
        "paramJson": scene.task.param,
        "completeTime": scene.millis(scene.completed),
        "response": scene.when_done({key: list(scene.results)}),
        "successFlag": flag,
        "status": status,
        **scene.error,
        "createTime": scene.millis(scene.created),
        "progress": "1.00" if scene.done else "0.00",
    }


def flux_kontext(scene: Scene) -> Json:
    """Flux Kontext: one picture, and the one it was made from."""
    response: Json = {
        "originImageUrl": scene.still,
        "resultImageUrl": scene.first,
    }
    return {
        "taskId": scene.task.id,
        "paramJson": scene.task.param,
        "completeTime": scene.iso(scene.completed),
        "response": scene.when_done(response),
        "successFlag": scene.flag,
        **scene.error,
        "createTime": scene.iso(scene.created),
    }


def midjourney(scene: Scene) -> Json:
    """Midjourney: results are objects, each with its address inside."""
    results: Json = {"resultUrls": [{"resultUrl": url} for url in scene.results]}
    return {
        "taskId": scene.task.id,
        "taskType": "mj_txt2img",
        "paramJson": scene.task.param,
        "completeTime": scene.iso(scene.completed),
        "resultInfoJson": scene.when_done(results),
        "successFlag": scene.flag,
        **scene.error,
        "createTime": scene.iso(scene.created),
    }


def luma(scene: Scene) -> Json:
    """Luma: flag 4 means that the film is there and only the callback could not be delivered."""
    undelivered = scene.done and scene.task.variant == "undelivered"
    response: Json = {"taskId": scene.task.id, "resultUrls": list(scene.results), "originUrls": []}
    return {
        "taskId": scene.task.id,
        "promptJson": scene.task.param,
        "completeTime": scene.millis(scene.completed),
        "response": scene.when_done(response),
        "successFlag": 4 if undelivered else scene.flag,
        **scene.error,
        "createTime": scene.millis(scene.created),
    }
