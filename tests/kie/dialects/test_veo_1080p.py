"""The 1080p version of a Veo film: its row's task id, its page, and what the page's answers say."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.observations import Ready, TaskUnknown, Unreachable, Unreadable, Working
from reconciler.kie.dialects import judge
from reconciler.kie.dialects.market import MARKET
from reconciler.kie.dialects.success_flag import VEO
from reconciler.kie.dialects.veo_1080p import VEO_1080P, asked, is_task_id, processing, task_id
from testkit.answers import ready

FILM = "veo_task_abcdef123456"
ADDRESS = "https://tempfile.aiquickdraw.com/p/42f4_1749711595.mp4"
PROCESSING = "1080P is processing. It should be ready in 1-2 minutes. Please check back shortly."


def answer(code: object, data: object, msg: str = "success") -> dict[str, object]:
    return {"code": code, "msg": msg, "data": data}


def test_the_rows_task_id_never_reaches_kie() -> None:
    assert asked(VEO_1080P, task_id(FILM, 0)) == ("/api/v1/veo/get-1080p-video?index=0", FILM)
    assert asked(VEO_1080P, task_id(FILM, 12)) == ("/api/v1/veo/get-1080p-video?index=12", FILM)


def test_other_tasks_are_asked_about_as_they_are() -> None:
    assert asked(VEO, FILM) == ("/api/v1/veo/record-info", FILM)
    assert asked(MARKET, "a~b") == ("/api/v1/jobs/recordInfo", "a~b")
    assert asked(VEO_1080P, FILM) == ("/api/v1/veo/get-1080p-video", FILM)


@pytest.mark.parametrize("value", ["~1080p-0", f"{FILM}~1080p-", f"{FILM}~1080p-x", f"{FILM}~1080p-123", FILM, ""])
def test_only_a_film_and_an_index_make_such_an_id(value: str) -> None:
    assert not is_task_id(value)


@pytest.mark.parametrize("code", [400, 422, "422"])
def test_a_version_that_is_being_made_is_work_in_progress(code: object) -> None:
    assert processing(VEO_1080P, answer(code, None, PROCESSING)) == Working("processing", generating=True)


@pytest.mark.parametrize(
    "body",
    [
        answer(422, None, "record is null"),
        answer(400, None, "bad request"),
        answer(500, None, PROCESSING),
        answer(200, {"resultUrl": ADDRESS}, "processing ended"),
        [answer(422, None, PROCESSING)],
        None,
    ],
)
def test_no_other_answer_is_work_in_progress(body: object) -> None:
    assert processing(VEO_1080P, body) is None


def test_the_message_means_nothing_in_another_dialect() -> None:
    assert processing(VEO, answer(422, None, PROCESSING)) is None


def test_the_address_is_the_result_and_without_one_the_version_is_not_ready() -> None:
    assert judge(VEO_1080P, 200, answer(200, {"resultUrl": ADDRESS})) == ready((ADDRESS,))
    done = judge(VEO_1080P, 200, answer(200, {"resultUrl": ADDRESS, "completeTime": 1777000045000}))
    assert isinstance(done, Ready)
    assert done.completed_at == datetime(2026, 4, 24, 3, 7, 25, tzinfo=UTC)
    for empty in ({}, {"resultUrl": None}, {"resultUrl": ""}):
        assert isinstance(judge(VEO_1080P, 200, answer(200, empty)), Working)
    assert isinstance(judge(VEO_1080P, 200, answer(200, {"resultUrl": "no address"})), Unreadable)


def test_a_film_that_kie_does_not_know_is_unknown_and_never_failed() -> None:
    assert judge(VEO_1080P, 200, answer(422, None, "record is null")) == TaskUnknown("record_null")
    assert judge(VEO_1080P, 404, answer(404, None, "not found")) == TaskUnknown("not_found")
    assert isinstance(judge(VEO_1080P, 200, answer(500, None, "1080P failed")), Unreachable)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(ADDRESS),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["resultUrl", "url", "completeTime"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["resultUrl", "completeTime", "createTime", "costTime"]), JSON), JSON)
def test_no_answer_raises(record: dict[str, object], code: object) -> None:
    assert isinstance(judge(VEO_1080P, 200, answer(200, record)), Ready | Working | Unreachable | Unreadable)
    assert processing(VEO_1080P, answer(code, record, PROCESSING)) in (None, Working("processing", generating=True))
