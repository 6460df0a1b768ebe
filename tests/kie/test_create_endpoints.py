"""The table of KIE's endpoints for orders: what each request holds, and which endpoint an order means."""

from __future__ import annotations

import pytest

from reconciler.errors import Permanent
from reconciler.kie.create_endpoints import ENDPOINTS, CreateEndpoint, choose
from reconciler.kie.dialects import by_name

BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}
CALLBACK = "https://shop.example/api/kie/callback?secret=s&generation=g"

# One order for each endpoint of KIE's pages: a model that a shop would name, and the request without its callback.
REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "jobs/createTask": ("nano-banana-2", {"model": "nano-banana-2", "input": {"prompt": "p"}}),
    "veo/generate": ("veo3_fast", {"model": "veo3_fast", "prompt": "p", "aspect_ratio": "16:9"}),
    "veo/extend": ("veo3_fast", {"taskId": "t", "prompt": "p", "model": "fast"}),
    "veo/get-4k-video": ("veo3", {"taskId": "t", "index": 0}),
    "generate": ("V5", {"model": "V5", "prompt": "p", "customMode": False, "instrumental": True}),
    "generate/extend": ("V4_5PLUS", {"model": "V4_5PLUS", "audioId": "a", "defaultParamFlag": False}),
    "generate/upload-cover": ("V5_5", {"model": "V5_5", "uploadUrl": "https://a.example/x.mp3", "prompt": "p"}),
    "generate/upload-extend": ("V5", {"model": "V5", "uploadUrl": "https://a.example/x.mp3", "continueAt": 60}),
    "generate/add-vocals": ("V5", {"model": "V5", "uploadUrl": "https://a.example/x.mp3", "prompt": "p"}),
    "generate/add-instrumental": ("V5", {"model": "V5", "uploadUrl": "https://a.example/x.mp3", "tags": "calm"}),
    "generate/mashup": ("V5", {"model": "V5", "uploadUrlList": ["https://a.example/1", "https://a.example/2"]}),
    "generate/sounds": ("V5", {"model": "V5", "prompt": "rain", "soundLoop": True}),
    "generate/replace-section": ("suno", {"taskId": "t", "audioId": "a", "infillStartS": 1, "infillEndS": 9}),
    "lyrics": ("suno", {"prompt": "a song about rain"}),
    "wav/generate": ("suno", {"taskId": "t", "audioId": "a"}),
    "vocal-removal/generate": ("suno", {"taskId": "t", "audioId": "a", "type": "split_stem"}),
    "midi/generate": ("suno", {"taskId": "t"}),
    "mp4/generate": ("suno", {"taskId": "t", "audioId": "a", "author": "A"}),
    "suno/cover/generate": ("suno", {"taskId": "t"}),
    "voice/generate": ("suno", {"taskId": "t", "verifyUrl": "https://a.example/v.mp3", "voiceName": "A"}),
    "runway/generate": ("runway", {"prompt": "p", "duration": 5, "quality": "720p"}),
    "runway/extend": ("runway", {"taskId": "t", "prompt": "p", "quality": "720p"}),
    "aleph/generate": ("aleph", {"prompt": "p", "videoUrl": "https://a.example/v.mp4"}),
    "gpt4o-image/generate": ("gpt4o-image", {"prompt": "p", "size": "1:1", "nVariants": 2}),
    "flux/kontext/generate": ("flux-kontext-pro", {"model": "flux-kontext-pro", "prompt": "p"}),
    "mj/generate": ("midjourney", {"taskType": "mj_txt2img", "prompt": "p", "speed": "fast"}),
    "modify/generate": ("luma", {"prompt": "p", "videoUrl": "https://a.example/v.mp4"}),
}
"""Source of the names: docs.kie.ai, the page of each endpoint."""

DIALECTS = {
    "jobs/createTask": "market", "veo/generate": "veo", "veo/extend": "veo", "veo/get-4k-video": "veo",
    "veo/get-1080p-video": "veo_1080p", "generate": "suno", "generate/extend": "suno", "generate/upload-cover": "suno",
    "generate/upload-extend": "suno", "generate/add-vocals": "suno", "generate/add-instrumental": "suno",
    "generate/mashup": "suno", "generate/sounds": "suno", "generate/replace-section": "suno", "lyrics": "suno_lyrics",
    "wav/generate": "suno_wav", "vocal-removal/generate": "suno_stems", "midi/generate": "suno_midi",
    "mp4/generate": "suno_video", "suno/cover/generate": "suno_cover", "voice/generate": "suno_voice",
    "runway/generate": "runway", "runway/extend": "runway", "aleph/generate": "aleph", "gpt4o-image/generate": "gpt4o",
    "flux/kontext/generate": "flux_kontext", "mj/generate": "midjourney", "modify/generate": "luma",
}  # fmt: skip


def given(name: str) -> dict[str, object]:
    """The input of the order whose request is above."""
    model, request = REQUESTS[name]
    if name == "jobs/createTask":
        return {"prompt": "p"}
    return {key: value for key, value in request.items() if (key, value) != ("model", model)}


def test_every_endpoint_has_an_order_here_and_its_dialect() -> None:
    assert {endpoint.name: endpoint.dialect for endpoint in ENDPOINTS} == DIALECTS
    assert set(REQUESTS) == set(DIALECTS) - {"veo/get-1080p-video"}
    assert [name for name in DIALECTS.values() if by_name(name) is None] == []


@pytest.mark.parametrize("name", REQUESTS)
def test_the_request_is_what_the_endpoints_page_says(name: str) -> None:
    model, request = REQUESTS[name]
    endpoint = choose(model, name, given(name))
    assert endpoint.path == f"/api/v1/{name}"
    assert endpoint.request(model, given(name), CALLBACK) == {**request, "callBackUrl": CALLBACK}
    assert endpoint.request(model, given(name), "") == request
    assert endpoint.known_task(given(name)) is None


def test_a_model_in_the_input_is_sent_as_it_is() -> None:
    assert BY_NAME["generate"].request("suno", {"model": "V5"}, "") == {"model": "V5"}
    assert BY_NAME["generate"].request("V4", {"model": "V5"}, "") == {"model": "V5"}
    assert BY_NAME["generate"].request("suno", {}, "") == {}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("nano-banana-2", "jobs/createTask"),
        ("kling-3.0/video", "jobs/createTask"),
        ("veo-3-1", "jobs/createTask"),
        ("anything new", "jobs/createTask"),
        ("veo3_fast", "veo/generate"),
        ("V5", "generate"),
        ("suno-v5", "generate"),
        ("suno-lyrics", "lyrics"),
        ("suno-wav", "wav/generate"),
        ("suno/separate-vocals", "vocal-removal/generate"),
        ("suno-midi", "midi/generate"),
        ("suno-music-video", "mp4/generate"),
        ("suno-voice", "voice/generate"),
        ("runway", "runway/generate"),
        ("runway-aleph", "aleph/generate"),
        ("gpt4o-image", "gpt4o-image/generate"),
        ("flux-kontext-max", "flux/kontext/generate"),
        ("midjourney", "mj/generate"),
        ("luma", "modify/generate"),
    ],
)
def test_the_models_name_chooses_the_endpoint_where_none_is_named(model: str, name: str) -> None:
    assert choose(model, None, {}).name == name


@pytest.mark.parametrize(
    ("model", "name"),
    [("my own model", name) for name in REQUESTS]
    + [("veo3_fast", "jobs/createTask"), ("veo-3-1", "veo/extend"), ("suno-wav", "generate")],
)
def test_an_endpoint_may_be_named_with_every_model_that_does_not_exclude_it(model: str, name: str) -> None:
    assert choose(model, name, {}).name == name


def refusal(model: str, name: str | None, given: dict[str, object]) -> Permanent:
    with pytest.raises(Permanent) as raised:
        choose(model, name, given)
    return raised.value


@pytest.mark.parametrize(
    ("model", "name", "instead"),
    [
        ("nano-banana-2", "veo/generate", "jobs/createTask"),
        ("V5", "veo/generate", "generate"),
        ("veo3", "generate", "veo/generate"),
        ("luma", "mj/generate", "modify/generate"),
        ("gpt4o-image", "flux/kontext/generate", "gpt4o-image/generate"),
    ],
)
def test_an_endpoint_that_contradicts_the_model_is_refused_with_the_right_one(
    model: str, name: str, instead: str
) -> None:
    error = refusal(model, name, {})
    assert error.code == "endpoint_contradicts_model"
    assert str(error) == f"{name} does not make {model}, which is ordered at {instead}"


@pytest.mark.parametrize(
    "name", ["veo", "jobs/createtask", "/api/v1/veo/generate", "generate/lyrics", "voice/validate"]
)
def test_an_unknown_endpoint_is_refused_with_the_list(name: str) -> None:
    error = refusal("m", name, {})
    assert error.code == "endpoint_unknown"
    assert str(error).endswith(", ".join(BY_NAME))


@pytest.mark.parametrize("name", ["style/generate", "generate/generate-persona", "generate/get-timestamped-lyrics"])
def test_an_endpoint_that_answers_at_once_takes_no_order(name: str) -> None:
    error = refusal("suno", name, {"content": "calm"})
    assert (error.code, "send it to KIE yourself" in str(error)) == ("endpoint_without_task", True)


@pytest.mark.parametrize("spelling", ["callBackUrl", "callbackUrl", "calBackUrl", "CALLBACKURL"])
def test_an_order_cannot_bring_an_address_to_call_back(spelling: str) -> None:
    assert refusal("veo3", None, {spelling: "https://elsewhere.example"}).code == "invalid_request"
    # The market's input is not the request: there it is a field like any other.
    assert choose("nano-banana-2", None, {spelling: "https://elsewhere.example"}).nested


def test_the_1080p_version_of_a_film_has_its_task_id_beforehand() -> None:
    endpoint = choose("veo3", "veo/get-1080p-video", {"taskId": " veo_task_1 ", "index": 3})
    assert endpoint.known_task({"taskId": "veo_task_1", "index": 3}) == "veo_task_1~1080p-3"
    assert endpoint.known_task({"taskId": "veo_task_1"}) == "veo_task_1~1080p-0"


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"taskId": None},
        {"taskId": 7},
        {"taskId": " "},
        {"taskId": "a\nb"},
        {"taskId": "t~1080p-0"},
        {"taskId": "x" * 300},
        {"taskId": "t", "index": -1},
        {"taskId": "t", "index": 100},
        {"taskId": "t", "index": "0"},
        {"taskId": "t", "index": True},
        {"taskId": "t", "index": None},
    ],
    ids=repr,
)
def test_a_1080p_order_without_a_film_is_refused(bad: dict[str, object]) -> None:
    assert refusal("veo3", "veo/get-1080p-video", bad).code == "invalid_request"


EVERYWHERE = {400, 401, 402, 403, 404, 422, 429, 430, 433, 455, 500, 501, 505}
OWN = {
    "market": {413, 451, 550}, "veo": {451}, "runway": {451}, "aleph": {451}, "gpt4o": {451, 550},
    "flux_kontext": set(), "midjourney": set(), "luma": set(), "veo_1080p": set(),
}  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_the_refusals_of_each_endpoint_are_a_closed_list(endpoint: CreateEndpoint) -> None:
    assert endpoint.refusals == EVERYWHERE | OWN.get(endpoint.dialect, {409, 413, 451})
