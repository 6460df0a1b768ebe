"""How much JSON is parsed at all."""

from __future__ import annotations

import json

import pytest

from reconciler.kie.dialects.parsing import MAX_VALUES, too_many_values


@pytest.mark.parametrize(
    "form", [str, str.encode, lambda text: bytearray(text.encode())], ids=["text", "bytes", "array"]
)
def test_json_with_more_values_than_the_limit_is_told_before_it_is_parsed(form: type[str]) -> None:
    assert not too_many_values(form(json.dumps([1] * (MAX_VALUES - 1))))
    assert not too_many_values(form(json.dumps(["x" * MAX_VALUES])))
    assert too_many_values(form(json.dumps([1] * (MAX_VALUES + 1))))
    assert too_many_values(form(json.dumps([{}] * (MAX_VALUES // 2 + 1))))
