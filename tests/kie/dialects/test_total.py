"""Any JSON gives an observation in every dialect, and none raises."""

from __future__ import annotations

import json
import typing

from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.observations import Failed, Observation, Ready
from reconciler.kie.dialects import candidates, judge
from reconciler.kie.dialects.parsing import MAX_TEXT

FAMILIES = candidates(None, "")
STATES = ["success", "fail", "generating", "SUCCESS", "CALLBACK_EXCEPTION", "GENERATE_AUDIO_FAILED"]
KEYS = [
    "state",
    "status",
    "successFlag",
    "resultJson",
    "resultInfoJson",
    "response",
    "videoInfo",
    "resultUrls",
    "result_urls",
    "resultUrl",
    "resultObject",
    "mask_urls",
    "segments",
    "maskUrl",
    "data",
    "sunoData",
    "audioUrl",
    "outputs",
    "videoUrl",
    "imageUrl",
    "resultImageUrl",
    "resultVideoUrl",
    "images",
    "audioWavUrl",
    "vocalUrl",
    "failMsg",
    "failCode",
    "errorMessage",
    "errorCode",
    "createTime",
    "completeTime",
    "costTime",
]

LONGEST = 10**4300 - 1
"""The longest whole number that the JSON of an answer is read with."""

texts = st.text() | st.sampled_from([*STATES, "https://a.example/x", "http://[", "https://", "9" * 30])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 4)
    | st.integers(min_value=-LONGEST, max_value=LONGEST)
    | st.floats()
    | texts
)


def grown(inner):
    return (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
        | st.dictionaries(st.text(), inner, max_size=2)
        | inner.map(in_a_string)
    )


def in_a_string(value):
    try:
        return json.dumps(value)
    except ValueError:
        return "[" * 5000


anything = st.recursive(leaves, grown, max_leaves=12)
records = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(STATES) | anything,
        "status": st.sampled_from(STATES) | anything,
        "successFlag": st.integers(0, 4) | anything,
        **dict.fromkeys(KEYS[3:], anything),
    },
)
codes = st.sampled_from([0, 200, "200", 404, 422, 429, 501, "501"]) | anything
envelopes = st.fixed_dictionaries(
    {"code": codes, "data": records | anything}, optional={"msg": anything, "message": anything}
)
statuses = st.sampled_from([200, 200, 200, 401, 404, 429, 500, 501, 502]) | st.integers(100, 599)


@given(status=statuses, body=envelopes | anything)
def test_every_answer_gives_one_observation_of_limited_size_in_every_dialect(status, body):
    for family in FAMILIES:
        seen = judge(family, status, body)

        assert isinstance(seen, typing.get_args(Observation))
        match seen:
            case Failed():
                assert 0 < len(seen.message) <= MAX_TEXT
                assert seen.message.isprintable()
                assert seen.code is None or 0 < len(seen.code) <= MAX_TEXT
            case Ready():
                addresses = [address for result in seen.results for address in result.addresses]
                assert all(address.startswith(("http://", "https://")) for address in addresses)
                assert all(len(address) <= 4096 for address in addresses)
                assert [result.n for result in seen.results] == list(range(len(seen.results)))
                assert seen.completed_at is None or seen.completed_at.tzinfo is not None
            case _:
                assert str(seen).isprintable()
                assert len(str(seen)) <= MAX_TEXT + 100


@given(record=records)
def test_every_record_gives_an_observation_in_every_dialect(record):
    for family in FAMILIES:
        assert isinstance(family.read(record), typing.get_args(Observation))


@given(status=statuses, code=st.integers(0, 999), record=records)
def test_only_a_record_in_a_known_envelope_can_fail_a_task(status, code, record):
    for family in FAMILIES:
        seen = judge(family, status, {"code": code, "msg": "failed", "data": record})

        if isinstance(seen, Failed):
            assert code in {0, 200, 400, 422, 500, 501}
            assert isinstance(family.read(record), Failed)


@given(model=st.none() | st.text(), task_id=st.text())
def test_every_name_has_candidates_and_the_market_is_among_them(model, task_id):
    found = [family.name for family in candidates(model, task_id)]

    assert "market" in found
    assert len(found) == len(set(found))


def test_a_record_nested_10_000_deep_is_unreadable_in_every_dialect():
    deep = "[" * 10_000 + "]" * 10_000
    places = {"resultJson": deep, "response": deep, "resultInfoJson": deep, "videoInfo": deep}

    for family in FAMILIES:
        for ready in ({"state": "success"}, {"status": "SUCCESS"}, {"successFlag": 1}):
            seen = judge(family, 200, {"code": 200, "data": {**places, **ready}})
            assert type(seen).__name__ in {"Unreachable", "Unreadable"}


def test_a_parsed_record_nested_10_000_deep_raises_in_no_dialect():
    deep: object = "https://a.example/x"
    for _ in range(10_000):
        deep = {"resultObject": deep, "data": deep, "response": deep}
    record = {"resultJson": deep, "response": deep, "resultInfoJson": deep, "videoInfo": deep}

    for family in FAMILIES:
        for ready in ({"state": "success"}, {"status": "SUCCESS"}, {"successFlag": 1}):
            seen = judge(family, 200, {"code": 200, "data": {**record, **ready}})
            assert type(seen).__name__ in {"Unreachable", "Unreadable", "Ready"}
