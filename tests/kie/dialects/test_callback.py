"""Callbacks: the task id in every field that a dialect uses, and the report of every dialect."""

from __future__ import annotations

import json
import typing
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.observations import Failed, Observation, Ready, Unreachable, Working
from reconciler.kie.dialects.callback import UNREADABLE, mentions_task_id, read, task_ids
from reconciler.kie.dialects.parsing import MAX_TEXT
from testkit.answers import ready
from tests.kie.dialects.test_total import anything, records

A, B = "https://tempfile.aiquickdraw.com/a.mp4", "https://tempfile.aiquickdraw.com/b.mp4"
C = "https://tempfile.aiquickdraw.com/c.mp4"
POSTER = "https://tempfile.aiquickdraw.com/poster.png"


def called(data: object, code: object = 200, msg: object = "success", **more: object) -> dict[str, object]:
    return {"code": code, "msg": msg, "data": data, **more}


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"taskId": "one"}},
        {"data": {"task_id": "one"}},
        {"taskId": "one"},
        {"task_id": "one", "data": None},
        {"data": '{"taskId": "one"}'},
        {"taskId": "one", "data": {"task_id": "one", "taskId": "one"}},
        {"taskId": 7, "data": {"task_id": "one", "taskId": "  "}},
        {"taskId": "x" * 301, "data": {"task_id": "one", "taskId": None}},
        {"taskId": "a\0b", "task_id": "\ud800", "data": {"task_id": "one"}},
    ],
)
def test_the_id_is_found_in_the_fields_of_all_dialects(body) -> None:
    assert task_ids(body) == {"one"}


@pytest.mark.parametrize("body", [None, [], "one", 1, {}, {"data": {}}, {"data": ["one"]}, {"data": {"taskId": ["a"]}}])
def test_an_invalid_id_is_no_id(body) -> None:
    assert task_ids(body) == frozenset()


def test_ids_that_disagree_are_all_returned() -> None:
    assert task_ids({"taskId": "one", "task_id": "two", "data": {"taskId": "three"}}) == {"one", "two", "three"}


def test_an_id_of_300_characters_is_one() -> None:
    assert task_ids({"taskId": "x" * 300}) == {"x" * 300}


@pytest.mark.parametrize(
    "body",
    [
        {"taskId": "one"},
        {"data": {"task_id": 7}},
        {"data": '{"taskId": "one"}'},
        {"taskId": "a\0b"},
        {"task_id": ["a"]},
    ],
)
def test_an_invalid_id_still_mentions_a_task(body) -> None:
    assert mentions_task_id(body)


@pytest.mark.parametrize("body", [None, [], "one", {}, {"data": None}, {"data": ["one"]}, {"taskId": None, "data": {}}])
def test_without_a_value_for_an_id_no_task_is_mentioned(body) -> None:
    assert not mentions_task_id(body)


def market(**more: object) -> dict[str, object]:
    record = {"taskId": "t", "model": "m", "state": "success", "resultJson": json.dumps({"resultUrls": [A, B]})}
    return {**record, "failCode": None, "failMsg": None, "createTime": 1777000000000, **more}


def test_the_markets_callback_is_read_as_its_record() -> None:
    seen = read(called(market(completeTime=1777000045000, creditsConsumed=1.23)))

    assert isinstance(seen, Ready)
    assert (addresses(seen), seen.duration) == ([A, B], timedelta(seconds=45))


@pytest.mark.parametrize("code", [501, 400, 200, None])
def test_the_markets_failure_is_read_from_its_state(code) -> None:
    seen = read(called(market(state="fail", resultJson=None, failCode="422", failMsg="no"), code))

    assert seen == Failed("no", code="422")


def test_an_intermediate_state_is_working() -> None:
    assert read(called(market(state="generating", resultJson=""))) == Working("generating", generating=True)


def test_an_undocumented_state_is_unreachable() -> None:
    assert read(called(market(state="odd"))) == Unreachable("unknown_state", "odd")


@pytest.mark.parametrize(
    ("data", "sources"),
    [
        ({"taskId": "t", "promptJson": "{}", "info": {"resultUrls": [A], "originUrls": [B]}}, (A,)),
        ({"taskId": "t", "info": {"resultUrls": [A], "imageUrls": [POSTER]}, "creditsConsumed": 1}, (A,)),
        ({"taskId": "t", "info": {"result_urls": [A, B]}}, (A, B)),
        ({"taskId": "t", "info": {"originImageUrl": POSTER, "resultImageUrl": A}}, (A,)),
        ({"task_id": "t", "video_id": "v", "video_url": A, "image_url": POSTER}, (A,)),
        ({"result_video_url": A, "result_image_url": POSTER}, (A,)),
        ({"taskId": "t", "promptJson": "{}", "resultUrls": [A, B]}, (A, B)),
        ({"taskId": "t", "resultUrls": [{"resultUrl": A}]}, (A,)),
        ({"task_id": "t", "audioWavUrl": A}, (A,)),
        ({"task_id": "t", "audio_wav_url": A}, (A,)),
        ({"taskId": "t", "images": [A, B]}, (A, B)),
    ],
    ids=["veo", "veo4k", "4o", "flux", "runway", "aleph", "luma", "midjourney", "wav", "wav_snake", "cover"],
)
def test_a_success_is_read_from_its_dialects_field_and_posters_are_no_results(data, sources) -> None:
    assert read(called(data)) == ready(sources)
    assert read(called(json.dumps(data), "0")) == ready(sources)


def test_every_stem_of_a_separated_song_is_a_result_and_the_song_is_none() -> None:
    named = {"id": "", "origin_url": POSTER, "instrumental_url": A, "vocal_url": B, "drums_url": ""}
    listed = [{"id": "s", "stem_type_group_name": "Saxophone", "audio_url": C}]

    assert addresses(read(called({"task_id": "t", "vocal_removal_info": named}))) == [A, B]
    assert addresses(read(called({"task_id": "t", "vocal_removal_info": {**named, "origin_data": listed}}))) == [C]


def test_a_success_without_any_result_is_no_report() -> None:
    assert read(called({"taskId": "t", "info": {"result_urls": []}})) == UNREADABLE


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"taskId": "t", "info": None}, 501),
        ({"taskId": "t", "info": {"originImageUrl": "", "resultImageUrl": ""}}, 500),
        ({"task_id": "t", "video_id": "", "video_url": "", "image_url": ""}, 400),
        (None, 400),
        ({"taskId": "t", "promptJson": "{}", "resultUrls": []}, 500),
        ({"taskId": "t"}, 451),
        ({"callbackType": "error", "task_id": "t", "data": None}, 531),
        ({"callbackType": "error", "task_id": "t", "data": []}, 408),
    ],
)
def test_a_failure_is_the_code_and_its_message(data, code) -> None:
    assert read(called(data, code, "too dark")) == Failed("too dark", code=str(code))
    assert read({"code": code, "message": "too dark", "data": data}) == Failed("too dark", code=str(code))


def addresses(report: Observation) -> list[str]:
    assert isinstance(report, Ready)
    return [address for result in report.results for address in result.addresses]


def track(sound: str) -> dict[str, object]:
    return {"id": "x", "audio_url": sound, "stream_audio_url": POSTER, "image_url": POSTER, "duration": 198.44}


def test_only_the_last_of_sunos_three_callbacks_is_a_success() -> None:
    def stage(word: str, *sounds: str) -> Observation:
        return read(called({"callbackType": word, "task_id": "t", "data": [track(sound) for sound in sounds]}))

    assert stage("text", "", "") == Working("text", generating=True)
    assert stage("first", A, "") == Working("first", generating=True)
    assert addresses(stage("complete", A, B)) == [A, B]
    assert stage("encore", A, B) == UNREADABLE


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "x",
        {},
        {"data": []},
        {"data": "{"},
        called({"taskId": "t"}),
        called(None),
        called({"info": {"resultUrls": [A]}}, 401),
        called({"info": {"resultUrls": [A]}}, 500),
        called({"info": {"resultUrls": [A]}}, None),
        called(market(), 501),
        called({"callbackType": "complete", "data": [track(A)]}, 531),
        called(None, 429),
    ],
)
def test_an_empty_or_contradictory_callback_is_unreadable(body) -> None:
    assert read(body) == UNREADABLE


@pytest.mark.parametrize("data", [{"info": "words"}, {"resultUrls": "words"}, {"video_url": {"a": 1}}])
def test_a_result_field_without_an_address_is_no_result(data) -> None:
    assert isinstance(read(called(data)), Unreachable)


bodies = st.fixed_dictionaries(
    {},
    optional={
        "code": st.sampled_from([0, 200, "200", 400, 408, 500, 501]) | anything,
        "msg": anything,
        "message": anything,
        "taskId": anything,
        "task_id": anything,
        "data": records
        | st.fixed_dictionaries(
            {},
            optional={
                "taskId": anything,
                "task_id": anything,
                "callbackType": st.sampled_from(["text", "first", "complete", "error"]) | anything,
                "data": anything,
                "info": st.fixed_dictionaries({}, optional={"resultUrls": anything}) | anything,
                "video_url": anything,
                "resultUrls": anything,
            },
        )
        | anything,
    },
)


@given(body=bodies | anything)
def test_any_json_gives_one_observation_and_ids_of_limited_size(body) -> None:
    seen = read(body)

    assert isinstance(seen, typing.get_args(Observation))
    assert str(seen).isprintable()
    for one in task_ids(body):
        assert one.encode()
        assert "\0" not in one
        assert 0 < len(one) <= 300
    if isinstance(seen, Failed):
        assert 0 < len(seen.message) <= MAX_TEXT
    if isinstance(seen, Ready):
        found = [address for result in seen.results for address in result.addresses]
        assert all(len(address) <= 4096 and address.startswith(("http://", "https://")) for address in found)


def test_a_deeply_nested_body_does_not_raise() -> None:
    deep: object = A
    for _ in range(10_000):
        deep = {"data": deep, "info": deep, "resultUrls": deep, "callbackType": deep}

    assert isinstance(read(deep), Unreachable)
    assert isinstance(read(called({"info": {"resultUrls": deep}})), Unreachable)
    assert read({"data": "[" * 10_000}) == UNREADABLE
