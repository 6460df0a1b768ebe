"""The shop of the demo: orders tasks from the simulator and inserts rows, as the web application does.

It records what it ordered, so that the results can be verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import asyncpg
import httpx

from reconciler.errors import Transient
from reconciler.simulator import MediaSpec, Simulator, TaskSpec

KEY = "demo-key"
USER = "7d0f3a52-4b6e-4c7e-9a55-0c5d3f6f2b11"

_SCENES = (
    "a red panda on a mossy log",
    "a lighthouse at dusk, oil on canvas",
    "desert dunes after rain, seen from a balloon",
    "an old tram in the first snow",
    "a paper boat on a calm sea",
    "the sun crossing a valley, one day in two seconds",
)

_INSERT = """
INSERT INTO public.generations (user_id, kind, model_key, provider, task_id, status, prompt, options)
VALUES ($1, $2, $3, 'kie', $4, 'generating', $5, '{}') RETURNING id::text
"""


@dataclass(frozen=True, slots=True)
class WishedGeneration:
    """One generation to order: its results, and how long its task takes in simulated seconds."""

    kind: str
    model: str
    seconds: float
    results: tuple[MediaSpec, ...]
    fails: bool = False


@dataclass(frozen=True, slots=True)
class OrderedGeneration:
    """A row in the shop's table, and the wish behind it."""

    generation_id: str
    task_id: str
    wish: WishedGeneration


def wishes(count: int) -> list[WishedGeneration]:
    """Return this many wishes; 24 are 16 images (one of six results, one refused), 6 videos and 2 sounds."""
    return list(islice(cycle(_two_dozen()), count))


def _two_dozen() -> Iterator[WishedGeneration]:
    yield WishedGeneration(
        "image", "grok-imagine/text-to-image", 20, tuple(_image("jpg", 220_000 + n * 9_000) for n in range(6))
    )
    yield WishedGeneration("image", "flux-2/pro-text-to-image", 25, (_image("png", 350_000),), fails=True)
    for n in range(14):
        ext = ("png", "jpg", "webp")[n % 3]
        yield WishedGeneration("image", "nano-banana-2", 12 + n * 5, (_image(ext, 280_000 + n * 40_000),))
    for n in range(6):
        media = MediaSpec(kind="video", ext="mp4", size=(3 + 2 * n) << 20)
        yield WishedGeneration("video", "kling-2.6/text-to-video", 60 + n * 22, (media,))
    for n in range(2):
        yield WishedGeneration(
            "audio", "elevenlabs/sound-effect", 40 + n * 20, (MediaSpec(kind="audio", ext="mp3", size=4_000_000 + n),)
        )


def _image(ext: str, size: int) -> MediaSpec:
    return MediaSpec(kind="image", ext=ext, size=size)


async def order(
    wish: WishedGeneration, kie: Simulator, client: httpx.AsyncClient, pool: asyncpg.Pool
) -> OrderedGeneration:
    """Order a task over HTTP and insert its row, which the daemon finds."""
    prompt = "one soft tone" if wish.kind == "audio" else _SCENES[round(wish.seconds) % len(_SCENES)]
    kie.orders.append(TaskSpec(life=_life(wish), fate="fail" if wish.fails else "success", results=wish.results))
    answer = await client.post(
        f"{kie.url}/api/v1/jobs/createTask",
        headers={"Authorization": f"Bearer {KEY}"},
        json={"model": wish.model, "input": {"prompt": prompt}},
    )
    task = answer.json()["data"]
    if task is None:
        raise Transient(f"the local KIE refused a task: {answer.text}", code="create_refused")
    values = (USER, wish.kind, wish.model, task["taskId"], prompt)
    return OrderedGeneration(await pool.fetchval(_INSERT, *values), task["taskId"], wish)


def _life(wish: WishedGeneration) -> list[tuple[str, float]]:
    return [("waiting", wish.seconds / 3), ("generating", wish.seconds * 2 / 3)]
