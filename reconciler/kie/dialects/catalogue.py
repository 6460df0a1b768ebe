"""Guesses from the model's name and the task's id in which dialects a task may be written.

A task is unknown at the path of a wrong dialect, so the visit tries the candidates one after another. Model names are
chosen by the application and may be anything. A name of the market's catalogue means the market first, even if there is
a dialect of the same name.
"""

import re

from reconciler.kie.dialects import suno
from reconciler.kie.dialects.dialect import Dialect
from reconciler.kie.dialects.market import MARKET, RUNWAY
from reconciler.kie.dialects.success_flag import ALEPH, FLUX_KONTEXT, GPT4O, LUMA, MIDJOURNEY, VEO
from reconciler.kie.dialects.veo_1080p import VEO_1080P, is_task_id

# A task whose model tells nothing is tried in this order.
_ALL: tuple[Dialect, ...] = (
    *(MARKET, VEO, suno.MUSIC, RUNWAY, ALEPH, GPT4O, FLUX_KONTEXT, LUMA, MIDJOURNEY),
    *(suno.WAV, suno.STEMS, suno.VIDEO, suno.COVER, suno.LYRICS, suno.MIDI, suno.VOICE),
)
# The page of 1080p versions makes one of any film that it is asked about: it is asked only where the row says so.
_BY_NAME = {dialect.name: dialect for dialect in (*_ALL, VEO_1080P)}

_BY_TASK_ID: tuple[tuple[str, tuple[Dialect, ...]], ...] = (
    (r"veo_task_", (VEO, MARKET)),
    (r"task_4o_", (GPT4O, MARKET)),
)
"""The forms of ids on KIE's pages; most ids are 32 hex digits, which tell nothing."""

_VENDORS = (
    r"bytedance|elevenlabs|flux-?2|gemini|google|gpt-image|grok|hailuo|happyhorse|ideogram"
    r"|infinitalk|kling|minimax|nano-?banana|omnihuman|pixverse|qwen|recraft|seedance|seedream"
    r"|sora|topaz|volcengine|wan|z-image"
)
_SUNO = r"(.*[^a-z])?suno[^a-z].*"
_BY_MODEL: tuple[tuple[str, tuple[Dialect, ...]], ...] = (
    # First the market's own names.
    (r"runway/.*aleph.*", (MARKET, ALEPH)),
    (r"runway/.*", (MARKET, RUNWAY)),
    (r"veo/.*|veo-3-1|google/.*veo.*", (MARKET, VEO)),
    (r"ai-music-api/.*", (MARKET, suno.MUSIC)),
    (r"4o-image-api", (MARKET, GPT4O)),
    (r"flux1-kontext", (MARKET, FLUX_KONTEXT)),
    # Only the market has these: polls elsewhere would be wasted.
    (rf"({_VENDORS})([^a-z].*)?", (MARKET,)),
    # Then the other dialects; those of works made from music come before the music.
    (r"(.*[^a-z])?aleph([^a-z].*)?", (ALEPH, MARKET, RUNWAY)),
    (r"(.*[^a-z])?runway(ml)?([^a-z].*)?", (RUNWAY, MARKET, ALEPH)),
    (r"(.*[^a-z])?veo[-_ ]?3.*|veo", (VEO, MARKET)),
    (_SUNO + r"wav([^a-z].*)?", (suno.WAV, MARKET, suno.MUSIC)),
    (_SUNO + r"(vocal|stem|separat).*", (suno.STEMS, MARKET, suno.MUSIC)),
    (_SUNO + r"(mp4|video)([^a-z].*)?", (suno.VIDEO, MARKET, suno.MUSIC)),
    (_SUNO + r"lyrics?([^a-z].*)?", (suno.LYRICS, MARKET, suno.MUSIC)),
    (_SUNO + r"midi([^a-z].*)?", (suno.MIDI, MARKET, suno.MUSIC)),
    (_SUNO + r"voice([^a-z].*)?", (suno.VOICE, MARKET, suno.MUSIC)),
    (
        r"(.*[^a-z])?(suno|chirp)([^a-z].*)?|v[3-9](_5)?(_?(plus|all|mini|wild))?",
        (suno.MUSIC, MARKET, suno.COVER, suno.WAV, suno.STEMS, suno.VIDEO),
    ),
    (r"(.*[^a-z0-9])?(gpt-?)?4o[-_ ]?image.*|gpt-?4o", (GPT4O, MARKET)),
    (r"(.*[^a-z])?flux[-_/. ]?(1[-_. ])?kontext.*", (FLUX_KONTEXT, MARKET)),
    (r"(.*[^a-z])?luma([^a-z].*)?", (LUMA, MARKET)),
    (r"(.*[^a-z])?(midjourney|mj|niji)([^a-z].*)?", (MIDJOURNEY, MARKET)),
)


def candidates(model: str | None, task_id: str) -> tuple[Dialect, ...]:
    """Return the dialects to try, the most likely first; the market is among them unless the id is one of ours."""
    if is_task_id(task_id):
        return (VEO_1080P,)
    for pattern, dialects in _BY_TASK_ID:
        if re.match(pattern, task_id):
            return dialects
    key = (model or "").strip().lower()[:200]
    for pattern, dialects in _BY_MODEL:
        if re.fullmatch(pattern, key):
            return dialects
    return _ALL


def by_name(name: str) -> Dialect | None:
    """Return the dialect with this name, None if this version has none."""
    return _BY_NAME.get(name)
