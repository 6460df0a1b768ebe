"""The generation of a task is read from the callback address in its record, and from no other field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.kie.dialects.market import generation_named

ADDRESS = "https://app.example/api/kie/callback?secret=s&generation=g-1"


def record(**param: object) -> dict[str, object]:
    return {"taskId": "t", "param": json.dumps(param)}


@pytest.mark.parametrize(
    ("address", "named"),
    [
        (ADDRESS, "g-1"),
        ("https://app.example/cb?generation=g-1&secret=s", "g-1"),
        ("https://app.example/cb?generation=a%2Fb%20c", "a/b c"),
        ("https://app.example/cb?generation=g-1&generation=g-1", None),
        ("https://app.example/cb?generation=g-1&generation=g-2", None),
        ("https://app.example/cb?generation=", None),
        ("https://app.example/cb?generation=g-1&generation=", None),
        ("https://app.example/cb?Generation=g-1", None),
        ("https://app.example/cb?xgeneration=g-1", None),
        ("https://app.example/cb?x=generation=g-1", None),
        ("https://app.example/cb#?generation=g-1", None),
        ("https://app.example/generation=g-1", None),
        ("https://[app/cb?generation=g-1", None),
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
        json.dumps(json.dumps({"callBackUrl": ADDRESS})),
        json.dumps({"input": {"callBackUrl": ADDRESS}}),
        json.dumps({"input": json.dumps({"callBackUrl": ADDRESS})}),
        json.dumps({"callbackurl": ADDRESS}),
        {"callBackUrl": ADDRESS},
    ],
)
def test_a_param_that_is_not_the_request_names_no_generation(param: object) -> None:
    assert generation_named({"param": param, "callBackUrl": ADDRESS}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON | st.dictionaries(st.just("param"), st.text() | JSON.map(json.dumps)))
def test_no_record_raises(found: object) -> None:
    assert generation_named(found) is None or isinstance(found, dict)
