"""Answers of four MiB that are made to keep the event loop busy: each is read up to a limit."""

from __future__ import annotations

import json
import sys

import pytest

from reconciler.domain.observations import Observation, Ready, Unreadable
from reconciler.domain.results import from_addresses
from reconciler.kie.dialects import by_name, callback, judge
from reconciler.kie.dialects.places import MAX_ENTRIES
from reconciler.kie.dialects.search import MAX_DEPTH

ADDRESS = "https://tempfile.aiquickdraw.com/r"


def read(result: object, **record: object) -> Observation:
    dialect = by_name("market")
    assert dialect is not None
    answer = {"code": 200, "data": {"taskId": "t", "state": "success", "resultJson": result, **record}}
    return judge(dialect, 200, answer)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "entries",
    [[None] * 800_000, [f"{ADDRESS}/{n}" for n in range(80_000)], [{"id": f"{n}"} for n in range(200_000)]],
    ids=["holes", "addresses", "objects without an address"],
)
def test_a_list_without_end_is_read_up_to_a_limit(entries: list[object]) -> None:
    observation = read({"resultUrls": entries})

    if isinstance(observation, Ready):
        assert len(observation.results) == MAX_ENTRIES
    else:
        assert isinstance(observation, Unreadable)


def test_a_callback_without_end_is_read_up_to_a_limit() -> None:
    body = {"code": 200, "data": {"callbackType": "complete", "data": [None] * 200_000}}

    observation = callback.read(body)

    assert isinstance(observation, Ready)
    assert len(observation.results) == MAX_ENTRIES


@pytest.mark.parametrize(
    ("result", "record"),
    [
        ({"a" * 100_000: {"b" * 100_000: {"c" * 100_000: [f"w{n}" for n in range(9_000)]}}}, {}),
        ({"x": {f"input{n}": 0 for n in range(200_000)}}, {}),
        ({}, {f"input{n}": 0 for n in range(200_000)}),
        ({"x": ["[1,2,3,4,5,6,7,8]"] * 150_000}, {}),
    ],
    ids=["long names", "many inputs", "a wide record", "text in text"],
)
def test_a_search_ends_and_names_what_it_could_not_read(result: object, record: dict[str, object]) -> None:
    assert isinstance(read(result, **record), Unreadable)


def test_words_that_are_nested_too_deeply_to_be_written_are_unreadable() -> None:
    def nested(depth: int) -> object:
        return json.loads("[" * depth + '"words"' + "]" * depth)

    def deepest() -> object:
        for depth in range(sys.getrecursionlimit(), 0, -1):
            try:
                return nested(depth)
            except RecursionError:
                continue
        raise AssertionError("nothing can be parsed")

    assert read({"resultObject": deepest()}) == Unreadable(("document",))


def test_a_search_reads_an_address_once_and_stops_where_names_lead_too_deep() -> None:
    assert read({"x": [f"{ADDRESS}/1", {"y": f"{ADDRESS}/1"}]}) == Ready(from_addresses([f"{ADDRESS}/1"]))

    deep: object = f"{ADDRESS}/1"
    for _ in range(MAX_DEPTH + 1):
        deep = {"x": deep}
    assert read({"x": deep}) == Unreadable(("resultJson",))
