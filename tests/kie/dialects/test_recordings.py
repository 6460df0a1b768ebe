"""Recorded tasks of the real KIE: every body is read, and the last one has exactly its results."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.domain.observations import Ready, TaskUnknown, Working
from reconciler.kie.dialects import by_name, candidates, judge, other_task

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "kie-recordings"
FILES = sorted(FOLDER.glob("*.json")) if FOLDER.is_dir() else []
TASKS = [path for path in FILES if path.stem != "other-endpoints"]

pytestmark = pytest.mark.skipif(not TASKS, reason=f"no recordings in ../{FOLDER.parent.name}")


def bodies(path):
    """Every body in order, repeated ones filled in."""
    last = None
    for poll in json.loads(path.read_text())["polls"]:
        last = last if poll.get("same_as_previous") else poll["body"]
        yield poll["http_status"], last


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
class TestRecordedTask:
    def test_every_body_but_the_last_is_running_and_the_last_is_ready(self, path):
        seen = [judge(by_name("market"), status, body) for status, body in bodies(path)]

        assert seen
        assert all(isinstance(one, Working) for one in seen[:-1])
        assert isinstance(seen[-1], Ready)

    def test_every_body_is_of_the_requested_task(self, path):
        task_id = json.loads(path.read_text())["task_id"]

        assert {other_task(body, task_id) for _, body in bodies(path)} == {None}

    def test_generating_is_set_exactly_if_kie_says_generating(self, path):
        for status, body in list(bodies(path))[:-1]:
            seen = judge(by_name("market"), status, body)
            assert seen.generating == (body["data"]["state"] == "generating")

    def test_the_results_are_the_addresses_in_its_result_json_and_no_input(self, path):
        *_, (status, body) = bodies(path)
        written = re.findall(r'https?://[^"\\]+', body["data"]["resultJson"])

        results = judge(by_name("market"), status, body).results
        assert [address for result in results for address in result.addresses] == written

    def test_the_duration_agrees_with_the_seconds_that_kie_gives(self, path):
        *_, (status, body) = bodies(path)

        took = judge(by_name("market"), status, body).duration
        assert abs(took - timedelta(seconds=body["data"]["costTime"])) <= timedelta(seconds=1)

    def test_the_market_is_the_first_candidate(self, path):
        *_, (_, body) = bodies(path)

        assert candidates(body["data"]["model"], body["data"]["taskId"])[0].name == "market"


def test_an_unknown_task_of_suno_is_unknown():
    exchanges = json.loads((FOLDER / "other-endpoints.json").read_text())
    (answer,) = [one for one in exchanges if one["path"] == by_name("suno").path]

    assert judge(by_name("suno"), answer["http_status"], answer["body"]) == TaskUnknown("no_data")


def test_answers_of_other_endpoints_do_not_raise():
    for answer in json.loads((FOLDER / "other-endpoints.json").read_text()):
        for family in candidates(None, ""):
            assert judge(family, answer["http_status"], answer["body"])
