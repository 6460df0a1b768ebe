"""In which dialects a task is polled, by the model's name and the task's id."""

from __future__ import annotations

import pytest

from reconciler.kie.dialects import by_name, candidates

HEX = "0f3a5c7e9b1d2f4a6c8e0b2d4f6a8c0e"
EVERYBODY = [
    "market",
    "veo",
    "suno",
    "runway",
    "aleph",
    "gpt4o",
    "flux_kontext",
    "luma",
    "midjourney",
    "suno_wav",
    "suno_stems",
    "suno_video",
    "suno_cover",
    "suno_lyrics",
    "suno_midi",
    "suno_voice",
]


def names(model, task_id=HEX):
    return [family.name for family in candidates(model, task_id)]


@pytest.mark.parametrize(
    "model",
    [
        "flux-2/pro-text-to-image",
        "flux-2-pro",
        "google/nano-banana",
        "google/imagen4-ultra",
        "nano-banana-2",
        "kling-2.6/text-to-video",
        "kling-3.0/video",
        "kling/v2-1-pro",
        "sora-2-text-to-video",
        "bytedance/seedance-2-fast",
        "gpt-image-2-image-to-image",
        "gpt-image/1.5-text-to-image",
        "grok-imagine/text-to-image",
        "happyhorse/reference-to-video",
        "seedream/5-lite-image-to-image",
        "wan/2-7-image-pro",
        "pixverse-v6/transition",
        "elevenlabs/text-to-speech-turbo-2-5",
        "topaz/video-upscale",
        "gemini-omni-video",
        "sora-2",
        "Kling ",
    ],
)
def test_a_model_that_only_the_market_has_is_polled_there_only(model):
    assert names(model) == ["market"]


@pytest.mark.parametrize(
    "model",
    [
        "luminous/dream",
        "wanda",
        "mjolnir",
        "nextrunway",
        "",
        None,
    ],
)
def test_an_unknown_model_is_polled_in_the_market_and_then_in_every_dialect(model):
    assert names(model) == EVERYBODY


@pytest.mark.parametrize(
    ("model", "first"),
    [
        ("runway/gen4-aleph", ["market", "aleph"]),
        ("runway/extend-ai-video", ["market", "runway"]),
        ("veo-3-1", ["market", "veo"]),
        ("veo/get-4k-video", ["market", "veo"]),
        ("google/veo3", ["market", "veo"]),
        ("ai-music-api/generate", ["market", "suno"]),
        ("4o-image-api", ["market", "gpt4o"]),
        ("flux1-kontext", ["market", "flux_kontext"]),
    ],
)
def test_a_name_of_the_markets_catalogue_means_the_market_and_then_its_dialect(model, first):
    assert names(model) == first


@pytest.mark.parametrize(
    ("model", "first"),
    [
        ("veo3", "veo"),
        ("veo3_fast", "veo"),
        ("VEO3.1-Lite ", "veo"),
        ("veo-3", "veo"),
        ("kie/veo-3.1-fast", "veo"),
        ("V3_5", "suno"),
        ("V4", "suno"),
        ("V4_5PLUS", "suno"),
        ("V5", "suno"),
        ("V6_MINI", "suno"),
        ("suno", "suno"),
        ("suno-v5", "suno"),
        ("suno/V4_5ALL", "suno"),
        ("chirp-v4", "suno"),
        ("suno-wav", "suno_wav"),
        ("suno/convert-to-wav", "suno_wav"),
        ("suno-vocal-removal", "suno_stems"),
        ("suno/separate-vocals", "suno_stems"),
        ("suno_stems", "suno_stems"),
        ("suno-mp4", "suno_video"),
        ("suno-music-video", "suno_video"),
        ("suno-lyrics", "suno_lyrics"),
        ("suno/generate-lyrics", "suno_lyrics"),
        ("suno-midi", "suno_midi"),
        ("suno_voice", "suno_voice"),
        ("runway", "runway"),
        ("runway-gen-4", "runway"),
        ("RunwayML", "runway"),
        ("gen4-aleph", "aleph"),
        ("runway-aleph", "aleph"),
        ("aleph", "aleph"),
        ("gpt4o-image", "gpt4o"),
        ("gpt-4o-image", "gpt4o"),
        ("4o-image", "gpt4o"),
        ("flux-kontext-pro", "flux_kontext"),
        ("flux/kontext", "flux_kontext"),
        ("flux.1-kontext-max", "flux_kontext"),
        ("luma", "luma"),
        ("luma/modify", "luma"),
        ("midjourney", "midjourney"),
        ("midjourney-v7", "midjourney"),
        ("mj", "midjourney"),
        ("mj_txt2img", "midjourney"),
        ("niji6", "midjourney"),
    ],
)
def test_a_dialects_model_is_polled_there_first_and_then_in_the_market(model, first):
    assert names(model)[:2] == [first, "market"]


@pytest.mark.parametrize("model", [None, "veo-3-1", "kling-3.0/video"])
def test_a_task_id_of_veos_form_means_veo_with_any_model_name(model):
    assert names(model, "veo_task_abcdef123456") == ["veo", "market"]


def test_a_task_id_of_4os_form_means_4o():
    assert names(None, "task_4o_abc123") == ["gpt4o", "market"]


@pytest.mark.parametrize("model", [None, "veo3_fast", "nano-banana-2"])
def test_a_task_id_of_a_1080p_version_is_polled_at_its_own_page_only(model):
    assert names(model, "veo_task_abcdef123456~1080p-0") == ["veo_1080p"]


def test_the_1080p_page_is_found_by_name_and_never_tried_with_another_task():
    assert by_name("veo_1080p") is not None
    for model in (None, "veo3", "suno", "veo/get-1080p-video"):
        assert "veo_1080p" not in names(model)


def test_a_task_id_that_only_contains_a_form_means_nothing():
    assert names(None, "my_veo_task_1") == EVERYBODY


def test_no_candidate_is_repeated_and_the_market_is_always_among_them():
    for model in (None, "veo3", "suno", "runway", "aleph", "suno-wav", "mj", "4o-image-api"):
        found = names(model)
        assert len(found) == len(set(found))
        assert "market" in found


def test_a_hostile_name_is_matched_quickly():
    assert names("suno-" * 100_000)[0] == "suno"
    assert names("-runway" * 100_000 + "x")[0] == "runway"


def test_every_dialect_is_found_by_its_name_and_has_its_own_path():
    found = [by_name(name) for name in EVERYBODY]

    assert [family.name for family in found] == EVERYBODY
    assert len({family.path for family in found}) == len(EVERYBODY)
    assert all(family.path.startswith("/api/v1/") for family in found)
    assert by_name("nobody") is None
