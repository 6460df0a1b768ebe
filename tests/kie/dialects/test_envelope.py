"""Law four at the envelope: no answer without a record fails a task."""

from __future__ import annotations

import pytest

from reconciler.domain.observations import Failed, Ready, TaskUnknown, Unreachable, Working
from reconciler.kie.dialects import by_name, candidates, judge, other_task
from reconciler.kie.dialects.parsing import MAX_TEXT
from testkit.answers import ready

MARKET = by_name("market")
VEO = by_name("veo")
SUNO = by_name("suno")

RUNNING = {"state": "generating"}
FAILED = {"state": "fail", "failMsg": "The generation task failed.", "failCode": "501"}


def body(code, msg="", data=None):
    return {"code": code, "msg": msg, "data": data}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(200, id="200 as a number"),
        pytest.param("200", id="200 as text"),
        pytest.param(0, id="0 as a number"),
        pytest.param("0", id="0 as text"),
        pytest.param(200.0, id="200 as a float"),
    ],
)
def test_the_record_is_read_under_every_form_of_success(code):
    assert judge(MARKET, 200, body(code, "success", RUNNING)) == Working("generating", generating=True)


@pytest.mark.parametrize(
    ("family", "status", "answer", "reason"),
    [
        pytest.param(SUNO, 200, body(200, "success"), "no_data", id="Suno: 200 with null data"),
        pytest.param(MARKET, 200, {"code": 200}, "no_data", id="200 without data"),
        pytest.param(MARKET, 200, body("0"), "no_data", id="0 with null data"),
        pytest.param(MARKET, 200, body(422, "recordInfo is null"), "record_null", id="recordInfo is null"),
        pytest.param(MARKET, 422, body(422, "recordInfo is null"), "record_null", id="the same as HTTP 422"),
        pytest.param(VEO, 200, body(422, "record is null"), "record_null", id="Veo right after creation"),
        pytest.param(SUNO, 200, body(422, "Record does not exist"), "record_null", id="Suno: no parent"),
        pytest.param(MARKET, 200, body(404, "Task not found"), "not_found", id="code 404"),
        pytest.param(MARKET, 404, {"message": "Not Found"}, "not_found", id="HTTP 404 in JSON"),
        pytest.param(MARKET, 404, body(200, "success"), "not_found", id="HTTP 404 with a cheerful body"),
    ],
)
def test_a_task_that_kie_does_not_know_is_unknown(family, status, answer, reason):
    assert judge(family, status, answer) == TaskUnknown(reason)


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        pytest.param(200, body(400, "taskId parameter is required"), "bad_request", id="400"),
        pytest.param(200, body(401, "Unauthorized"), "unauthorized", id="401 in the body"),
        pytest.param(401, body(401, "Unauthorized"), "unauthorized", id="401 in both"),
        pytest.param(200, body(402, "insufficient credits"), "no_credits", id="402"),
        pytest.param(403, None, "blocked", id="Cloudflare's 403 page"),
        pytest.param(200, body(403), "blocked", id="403 in the body"),
        pytest.param(200, body(408), "upstream_silent", id="408"),
        pytest.param(429, {"code": 429, "msg": "Rate limit exceeded"}, "rate_limited", id="429"),
        pytest.param(429, None, "rate_limited", id="429 without JSON"),
        pytest.param(429, {}, "rate_limited", id="429 with an empty object"),
        pytest.param(200, body(430), "rate_limited", id="430, the other word for it"),
        pytest.param(
            200,
            body(200, "Your call frequency is too high. Please try again later."),
            "rate_limited",
            id="call frequency under a code of success",
        ),
        pytest.param(
            200,
            {"code": 500, "message": "YOUR CALL FREQUENCY IS TOO HIGH"},
            "rate_limited",
            id="call frequency in the older field",
        ),
        pytest.param(200, body(433), "key_capped", id="433"),
        pytest.param(200, body(455), "maintenance", id="455"),
        pytest.param(200, body(500, "Server error"), "server_error", id="500 in the body"),
        pytest.param(500, body(200, "success", FAILED), "server_error", id="HTTP 500 over a record of no task"),
        pytest.param(502, None, "server_error", id="a gateway's HTML"),
        pytest.param(520, None, "server_error", id="Cloudflare's 520"),
        pytest.param(501, None, "server_error", id="HTML 501"),
        pytest.param(200, body(505), "disabled", id="505"),
        pytest.param(200, body(531), "server_error", id="531"),
        pytest.param(200, body(550), "busy", id="550"),
        pytest.param(200, body(451), "unexpected_code", id="a code that means nothing here"),
        pytest.param(200, body(-7), "unexpected_code", id="a negative code"),
        pytest.param(200, None, "not_json", id="HTML under 200"),
        pytest.param(404, None, "not_json", id="an HTML 404 is not KIE's word"),
        pytest.param(302, None, "not_json", id="a redirect"),
        pytest.param(200, [], "bad_envelope", id="a list"),
        pytest.param(200, "success", "bad_envelope", id="a text"),
        pytest.param(200, {}, "bad_envelope", id="an empty object"),
        pytest.param(200, {"data": RUNNING}, "bad_envelope", id="no code"),
        pytest.param(200, body("soon"), "bad_envelope", id="a code that is no number"),
        pytest.param(200, body(True, "", RUNNING), "bad_envelope", id="a code that is a truth"),
        pytest.param(200, body(200, "success", []), "bad_envelope", id="data is a list"),
        pytest.param(200, body(200, "success", ""), "bad_envelope", id="data is a text"),
    ],
)
def test_an_answer_that_is_not_about_the_task_is_unreachable(status, answer, reason):
    seen = judge(MARKET, status, answer)

    assert isinstance(seen, Unreachable)
    assert seen.reason == reason


def test_a_retry_after_is_returned():
    assert judge(MARKET, 429, None, 12.5).retry_after == 12.5
    assert judge(MARKET, 200, body(455), 60.0).retry_after == 60.0
    assert judge(MARKET, 200, body(200, "call frequency is too high"), 3.0).retry_after == 3.0


def test_kies_message_becomes_one_line():
    seen = judge(MARKET, 200, body(500, "first\nsecond\x00\x1b[31m" + "x" * 900))

    assert seen.detail == "first second [31m" + "x" * 900


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("x" * (MAX_TEXT - 8) + "\nkey", "x" * (MAX_TEXT - 8) + " key", id="all of it"),
        pytest.param("x" * (MAX_TEXT - 8) + "\nkey-of-kie", "x" * (MAX_TEXT - 8), id="whole words only"),
        pytest.param("x" * (MAX_TEXT + 1), "code 500", id="a single word"),
    ],
)
def test_a_long_message_is_cut_between_two_words_so_that_no_half_key_is_left(message, expected):
    assert judge(MARKET, 200, body(500, message)).detail == expected


def test_code_501_fails_a_task_if_the_record_reports_a_failure_too():
    assert judge(MARKET, 200, body(501, "Generation failed", FAILED)) == Failed(
        "The generation task failed.", code="501"
    )
    assert judge(VEO, 200, body(501, "", {"successFlag": 3, "errorMessage": "no"})) == Failed("no", code=None)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(None, id="without a record"),
        pytest.param(RUNNING, id="with a running record"),
        pytest.param({"state": "success", "resultJson": ""}, id="with a successful record without output"),
        pytest.param({}, id="with an empty record"),
        pytest.param("failed", id="with a text"),
    ],
)
def test_code_501_alone_fails_no_task(data):
    seen = judge(MARKET, 200, body(501, "Generation failed", data))

    assert seen == Unreachable("failed_without_record", "Generation failed")


@pytest.mark.parametrize("code", [400, 422, 500])
class TestAnEnvelopeOfAnErrorAroundARecord:
    """KIE documents failed records under these codes: the record is its word, whatever surrounds it."""

    def test_a_failed_record_that_names_its_task_fails_the_task(self, code):
        named = {**FAILED, "taskId": "a1"}
        failed = Failed("The generation task failed.", code="501")

        assert judge(MARKET, 200, body(code, "", named)) == failed
        assert judge(MARKET, code, body(code, "", named)) == failed

    def test_results_of_a_record_that_names_its_task_are_results(self, code):
        record = {"taskId": "a1", "state": "success", "resultJson": '["https://a.example/x"]'}

        assert judge(MARKET, 200, body(code, "", record)) == ready(("https://a.example/x",))

    @pytest.mark.parametrize(
        "record",
        [
            pytest.param(FAILED, id="failed, of no task"),
            pytest.param({"taskId": "a1", **RUNNING}, id="running"),
            pytest.param({"taskId": "a1", "state": "success", "resultJson": ""}, id="a success without output"),
        ],
    )
    def test_any_other_record_ends_nothing(self, code, record):
        assert not isinstance(judge(MARKET, 200, body(code, "", record)), Failed | Ready)


@pytest.mark.parametrize("code", [401, 402, 403, 404, 408, 429, 433, 455, 505])
def test_no_other_code_fails_a_task_with_any_record(code):
    named = {**FAILED, "taskId": "a1"}

    assert not isinstance(judge(MARKET, 200, body(code, "", named)), Failed)
    assert not isinstance(judge(MARKET, code, body(code, "", named)), Failed)
    assert not isinstance(judge(MARKET, code, named), Failed)


def test_a_record_with_a_success_code_counts():
    assert judge(MARKET, 200, body(200, "success", FAILED)) == Failed("The generation task failed.", code="501")
    assert judge(MARKET, 200, body(0, "", {"state": "success", "resultJson": '["https://a.example/x"]'})) == ready(
        ("https://a.example/x",)
    )


def test_a_huge_code_is_not_repeated_in_full():
    for family in candidates(None, ""):
        assert len(str(judge(family, 200, {"code": 10**4000, "data": None}))) < 200


@pytest.mark.parametrize("record", [{"taskId": "b2"}, {"task_id": "b2"}, {"taskId": "a1", "task_id": "b2"}])
@pytest.mark.parametrize("code", [200, 501, 404])
def test_a_record_of_another_task_is_unreachable(record, code):
    assert other_task(body(code, "", {**FAILED, **record}), "a1") == Unreachable("other_task", "the record is of b2")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"taskId": "a1", "task_id": "a1"}, id="ours"),
        pytest.param({"taskId": "A1 "}, id="ours as a database compares it"),
        pytest.param({"taskId": " ", "task_id": ""}, id="blank"),
        pytest.param({"taskId": None}, id="null"),
        pytest.param({"taskId": 7, "task_id": ["b2"]}, id="no text"),
        pytest.param({"state": "success", "response": {"taskId": "b2"}}, id="another deeper in it"),
        pytest.param("b2", id="no record"),
    ],
)
def test_a_record_that_names_our_task_or_none_is_read(data):
    assert other_task(body(200, "", data), "a1") is None
    assert other_task(data, "a1") is None
    assert other_task(None, "a1") is None


def test_the_id_of_another_task_is_shown_as_one_line_of_limited_length():
    told = other_task(body(200, "", {"taskId": "b\n2 " + "x" * 10**6}), "a1")

    assert told == Unreachable("other_task", "the record is of b 2")
