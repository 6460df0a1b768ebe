"""The generation of a task is read from the callback address in its record, and from no other field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.kie.dialects.named_generation import generation_named

ADDRESS = "https://app.example/api/kie/callback?secret=s&generation=g-1"


def record(**param: object) -> dict[str, object]:
    return {"taskId": "t", "param": json.dumps(param)}


@pytest.mark.parametrize(
    ("address", "named"),
    [
        (ADDRESS, "g-1"),
        ("https://app.example/cb?generation=g-1&secret=s", "g-1"),
        ("https://app.example/cb?generation=a%2Fb%20c", "a/b c"),
        ("https://app.example/cb?generation=g-1&generation=g-1", ""),
        ("https://app.example/cb?generation=g-1&generation=g-2", ""),
        ("https://app.example/cb?generation=", ""),
        ("https://app.example/cb?generation=g-1&generation=", ""),
        ("https://app.example/cb?Generation=g-1", ""),
        ("https://app.example/cb?xgeneration=g-1", ""),
        ("https://app.example/cb?x=generation=g-1", ""),
        ("https://app.example/cb#?generation=g-1", ""),
        ("https://app.example/generation=g-1", ""),
        ("https://[app/cb?generation=g-1", ""),
        ("", None),
        (None, None),
        (7, None),
        ([ADDRESS], None),
    ],
)
def test_the_generation_is_the_single_query_parameter_of_that_name(address: object, named: str | None) -> None:
    assert generation_named(record(callBackUrl=address, input="{}", model="m")) == named


@pytest.mark.parametrize(
    "param",
    [
        None,
        "",
        "not json",
        "[" * 100_000,
        json.dumps([{"callBackUrl": ADDRESS}]),
        json.dumps({"input": {"callBackUrl": ADDRESS}}),
        json.dumps({"input": json.dumps({"callBackUrl": ADDRESS})}),
        json.dumps({"callbackurl": ADDRESS}),
    ],
)
def test_a_param_that_is_not_the_request_repeats_no_address(param: object) -> None:
    assert generation_named({"param": param, "callBackUrl": ADDRESS}) is None


@pytest.mark.parametrize(
    "repeated",
    [
        {"param": json.dumps({"callBackUrl": ADDRESS, "customMode": True})},
        {"paramJson": json.dumps({"prompt": "p", "callBackUrl": ADDRESS})},
        {"promptJson": {"prompt": "p", "callBackUrl": ADDRESS}},
        {"generateParam": {"prompt": "p", "imageUrl": "", "callBackUrl": ADDRESS}},
        {"callbackUrl": ADDRESS},
        {"callbackUrl": ADDRESS, "param": json.dumps({"callBackUrl": ADDRESS})},
    ],
    ids="+".join,
)
def test_every_familys_way_to_repeat_the_address_is_read(repeated: dict[str, object]) -> None:
    assert generation_named({"taskId": "t", **repeated}) == "g-1"


@pytest.mark.parametrize(
    "silent",
    [
        {"paramJson": json.dumps({"prompt": "A city at sunset.", "waterMark": "KieAI"})},
        {"generateParam": {"prompt": "p", "imageUrl": "", "expandPrompt": True}},
        {"promptJson": "a lighthouse at dawn"},
        {"callbackUrl": ""},
        {"voiceId": "voice_1", "status": "success"},
        {"response": {"callbackUrl": ADDRESS}},
    ],
    ids="+".join,
)
def test_a_record_that_repeats_no_address_is_told_from_one_that_names_none(silent: dict[str, object]) -> None:
    assert generation_named({"taskId": "t", **silent}) is None


def test_two_addresses_that_disagree_name_no_generation() -> None:
    other = ADDRESS.replace("g-1", "g-2")
    assert generation_named({"callbackUrl": ADDRESS, "paramJson": json.dumps({"callBackUrl": other})}) == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


KEYS = st.sampled_from(["param", "paramJson", "promptJson", "generateParam", "callbackUrl"])


@given(JSON | st.dictionaries(KEYS, st.text() | JSON | JSON.map(json.dumps)))
def test_no_record_raises(found: object) -> None:
    assert generation_named(found) is None or isinstance(found, dict)
