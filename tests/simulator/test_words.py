"""Results that are words or numbers, in the forms that KIE publishes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconciler.simulator import Failure, Simulator
from reconciler.simulator.records.dialects import WORD_DIALECTS
from testkit.waiting import until
from tests.simulator.client import asking
from tests.simulator.test_callbacks import ear


async def record(kie: Simulator, **order: Any) -> dict[str, Any]:
    async with asking(kie) as ask:
        told: dict[str, Any] = (await ask.record(kie.add_task(**order)))[1]["data"]
        return told


async def test_lyrics_are_two_texts_with_titles() -> None:
    async with Simulator() as kie:
        told = await record(kie, family="suno_lyrics")
        assert (told["status"], told["type"]) == ("SUCCESS", "LYRICS")
        texts = told["response"]["data"]
        assert len({text["text"] for text in texts}) == 2
        assert all(set(text) == {"text", "title", "status", "errorMessage"} for text in texts)


async def test_midi_is_notes_whose_times_are_partly_strings() -> None:
    async with Simulator() as kie:
        told = await record(kie, family="suno_midi")
        assert (told["successFlag"], told["midiData"]["state"]) == (1, "complete")
        notes = [note for instrument in told["midiData"]["instruments"] for note in instrument["notes"]]
        assert {type(note["start"]) for note in notes} == {str, float}
        assert all(set(note) == {"pitch", "start", "end", "velocity"} for note in notes)


async def test_a_voice_has_an_id_and_its_phrase_comes_first() -> None:
    async with Simulator() as kie:
        voice, phrase = await record(kie, family="suno_voice"), await record(kie, family="suno_voice_phrase")
        assert (voice["status"], phrase["status"]) == ("success", "wait_validating")
        assert voice["voiceId"].startswith("voice_")
        assert phrase["validateInfo"]


STATES = {
    "suno_lyrics": ("status", ("PENDING", "PENDING"), "GENERATE_LYRICS_FAILED"),
    "suno_midi": ("successFlag", (0, 0), 3),
    "suno_voice": ("status", ("wait_processing", "processing_validate"), "fail"),
    "suno_voice_phrase": ("status", ("wait_processing", "processing_validate"), "processing_validate_fail"),
}


@pytest.mark.parametrize("family", sorted(WORD_DIALECTS))
async def test_words_have_states_and_failures_of_their_own_and_no_result_before_the_end(family: str) -> None:
    field, working, failed = STATES[family]
    async with Simulator() as kie:
        for state, expected in zip(("waiting", "generating"), working, strict=True):
            told = await record(kie, family=family, life=[(state, 100)])
            assert told[field] == expected
            results = [told.get(name) for name in ("response", "midiData", "voiceId", "validateInfo")]
            assert not any(results)
        told = await record(kie, family=family, fate="fail", failure=Failure("501", "no voice was heard"))
        assert (told[field], told["errorCode"], told["errorMessage"]) == (failed, 501, "no voice was heard")


async def result(kie: Simulator, model: str) -> dict[str, Any]:
    told = await record(kie, model=model)
    whole: dict[str, Any] = json.loads(told["resultJson"])
    return whole


async def test_a_transcript_is_text_and_words_without_any_address() -> None:
    async with Simulator() as kie:
        told = await result(kie, "elevenlabs/speech-to-text")
        assert list(told) == ["resultObject"]
        assert told["resultObject"]["text"] == " ".join(word["text"] for word in told["resultObject"]["words"])
        assert "http" not in json.dumps(told)


async def test_an_identification_is_a_verdict_and_a_detection_has_masks() -> None:
    async with Simulator() as kie:
        told = await result(kie, "omnihuman-1-5/human-identification")
        assert told == {"resultObject": {"status": 1, "contains_human": True}}
        masks = (await result(kie, "omnihuman-1-5/subject-detection"))["resultObject"]["mask_urls"]
        assert masks == kie.addresses(list(kie.tasks.values())[-1])
        assert len(masks) == 2


async def test_layers_have_an_order_a_name_a_box_and_an_address() -> None:
    async with Simulator() as kie:
        told = await result(kie, "seedream/5-pro-layer-decomposition")
        layers = told["resultObject"]["layers"]
        assert [layer["url"] for layer in layers] == told["resultUrls"]
        assert [layer["order"] for layer in layers] == [0, 1, 2, 3]
        assert all(len(layer["box"]) == 4 and layer["name"] for layer in layers)


async def test_segments_and_the_markets_own_music_have_their_own_forms() -> None:
    async with Simulator() as kie:
        segments = (await result(kie, "grok-imagine-image-2-0/segment-map"))["resultObject"]["segments"]
        assert [segment["maskUrl"] for segment in segments] == kie.addresses(list(kie.tasks.values())[-1])
        tracks = (await result(kie, "ai-music-api/generate"))["data"]
        assert [track["audio_url"] for track in tracks] == kie.addresses(list(kie.tasks.values())[-1])


BODIES: dict[str, tuple[str, set[str]]] = {
    "suno_wav": ("data", {"task_id", "audioWavUrl"}),
    "suno_video": ("data", {"task_id", "video_url"}),
    "suno_cover": ("data", {"taskId", "images"}),
    "suno_stems": ("data", {"task_id", "vocal_removal_info"}),
    "suno_lyrics": ("data", {"callbackType", "task_id", "data"}),
    "suno_midi": ("", {"task_id", "code", "msg", "data"}),
    "suno_voice": ("data", {"taskId", "voiceId", "status", "errorCode", "errorMessage"}),
    "suno_voice_phrase": ("data", {"taskId", "validateInfo", "status", "errorCode", "errorMessage"}),
    "aleph": ("data", {"result_video_url", "result_image_url"}),
    "runway": ("data", {"task_id", "video_id", "video_url", "image_url"}),
    "veo": ("data", {"taskId", "promptJson", "info", "fallbackFlag"}),
    "luma": ("data", {"taskId", "promptJson", "resultUrls"}),
    "midjourney": ("data", {"taskId", "promptJson", "resultUrls"}),
    "gpt4o": ("data", {"taskId", "info"}),
    "flux_kontext": ("data", {"taskId", "info"}),
}


@pytest.mark.parametrize("family", sorted(BODIES))
async def test_a_callback_has_the_fields_of_its_page(family: str) -> None:
    place, fields = BODIES[family]
    async with Simulator() as kie, ear() as listening:
        kie.add_task(family=family, callback_url=listening.url)
        await until(lambda: listening.heard, what="the callback")
        body = listening.heard[0][1]
        assert set(body[place] if place else body) == fields


async def test_the_callback_of_stems_and_of_a_4k_film_name_their_results_as_their_pages_do() -> None:
    async with Simulator() as kie, ear() as listening:
        kie.add_task(family="suno_stems", callback_url=listening.url)
        kie.add_task(family="veo", variant="4k", callback_url=listening.url)
        await until(lambda: len(listening.heard) == 2, what="both callbacks")
        stems, film = sorted((body for _, body in listening.heard), key=lambda body: "info" in body["data"])
        info = stems["data"]["vocal_removal_info"]
        assert [stem["audio_url"] for stem in info["origin_data"]] == [info["instrumental_url"], info["vocal_url"]]
        assert (film["msg"], film["data"]["creditsConsumed"]) == ("4K Video generated successfully.", 120)
        assert len(film["data"]["info"]["resultUrls"]) == 1
