"""The simulator's record of each dialect and its reader were written independently: the two must agree."""

from __future__ import annotations

import json

import pytest

from reconciler.domain.observations import Failed, Ready, TaskUnknown, Working
from reconciler.kie.dialects import by_name, judge
from reconciler.simulator import Failure, Simulator
from reconciler.simulator.records.dialects import DIALECTS, WORD_DIALECTS
from reconciler.simulator.records.words import LYRICS, lyric_texts, midi_notes
from tests.simulator.client import Asking, addresses, asking

# The phrase of a voice is a step of a dialogue with its owner, and no result: the daemon takes no order for it.
NAMES = sorted(set(DIALECTS) - {"suno_voice_phrase"})


async def observe(ask: Asking, task: str) -> object:
    family = by_name(ask.kie.tasks[task].family)
    assert family is not None
    status, body = await ask.get(family.path, taskId=task)
    return judge(family, status, body)


@pytest.mark.parametrize("name", NAMES)
async def test_the_reader_finds_exactly_the_simulators_results(name: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family=name)
        seen = await observe(ask, task)
        assert isinstance(seen, Ready)
        count = len(kie.tasks[task].results)
        assert addresses(seen) == kie.addresses(kie.tasks[task])[:count]
        assert bool(addresses(seen)) != (name in WORD_DIALECTS)


@pytest.mark.parametrize(
    ("name", "documents"),
    [
        ("suno_lyrics", [lyric_texts("errorMessage"), "\n\n".join(text for _, text in LYRICS)]),
        ("suno_midi", [midi_notes()["instruments"]]),
        ("suno_voice", [{"voiceId": "voice_a-task"}]),
    ],
)
async def test_the_reader_finds_exactly_the_simulators_words(name: str, documents: list[object]) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        seen = await observe(ask, kie.add_task(family=name, task_id="a-task"))
        assert isinstance(seen, Ready)
        assert [
            json.loads(result.text or "") if result.mime == "application/json" else result.text
            for result in seen.results
        ] == documents


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", ["waiting", "queuing", "generating"])
async def test_the_reader_reads_the_simulators_working_states(name: str, state: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        assert isinstance(await observe(ask, kie.add_task(family=name, life=[(state, 100)])), Working)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", ["400", "500", "501"])
async def test_the_reader_reads_the_simulators_failure(name: str, code: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        seen = await observe(ask, kie.add_task(family=name, fate="fail", failure=Failure(code, "no cats")))
        assert isinstance(seen, Failed)
        assert (seen.message, seen.code) == ("no cats", code)


@pytest.mark.parametrize("name", NAMES)
async def test_a_dialect_does_not_know_another_dialects_task(name: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family="veo" if name == "market" else "market")
        family = by_name(name)
        assert family is not None
        seen = judge(family, *await ask.get(family.path, taskId=task))
        assert isinstance(seen, TaskUnknown)


@pytest.mark.parametrize(
    ("name", "variant"), [("gpt4o", "snake"), ("luma", "undelivered"), ("suno", "undelivered"), ("veo", "empty")]
)
async def test_unusual_successes_have_the_documented_form(name: str, variant: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family=name, variant=variant)
        seen = await observe(ask, task)
        assert isinstance(seen, Ready)
        assert bool(addresses(seen)) == (variant != "empty")


@pytest.mark.parametrize("name", NAMES)
async def test_every_create_route_makes_a_task_of_its_dialect(name: str) -> None:
    async with Simulator(speed=0.001) as kie, asking(kie) as ask:
        parent = kie.add_task(family="suno")
        for path in DIALECTS[name].creates:
            body = {"model": "m", "input": {}, "prompt": "p", "taskId": parent, "callBackUrl": "http://127.0.0.1:9/"}
            status, made = await ask.post(path, body)
            assert (status, made["code"]) == (200, 200)
            assert kie.tasks[made["data"]["taskId"]].family == name
            assert isinstance(await observe(ask, made["data"]["taskId"]), Working)


async def test_suno_requires_a_callback_address_and_an_earlier_song() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        assert (await ask.post("/api/v1/generate", {"prompt": "p"}))[1]["msg"] == "Please enter callBackUrl."
        for name in ("wav", "mp4", "vocal-removal", "midi"):
            _, answer = await ask.post(f"/api/v1/{name}/generate", {"taskId": "none"})
            assert answer == {"code": 422, "msg": "Record does not exist", "data": None}


async def test_veos_1080p_video_is_processing_until_it_is_ready() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family="veo", life=60)
        path = "/api/v1/veo/get-1080p-video"
        assert (await ask.get(path, taskId=task, index="0"))[1]["code"] == 422
        kie.skip(60)
        _, answer = await ask.get(path, taskId=task, index="0")
        assert answer["data"]["resultUrl"] == kie.addresses(kie.tasks[task])[0]


async def test_the_additional_images_of_videos_and_songs_can_be_downloaded() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        for name in ("suno", "runway", "aleph", "flux_kontext", "suno_stems"):
            task = kie.tasks[kie.add_task(family=name)]
            async with ask.session.get(kie.addresses(task)[-1]) as answer:
                assert (answer.status, answer.content_type) == (200, "image/jpeg")
