"""The market's records: states, every form of resultJson, and what makes them unusable."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.domain.model import Result
from reconciler.domain.observations import Failed, Ready, Unreachable, Unreadable, Working
from reconciler.kie.dialects import by_name
from reconciler.kie.dialects.parsing import MAX_TEXT
from testkit.answers import ready

MARKET = by_name("market")
A = "https://tempfile.aiquickdraw.com/r/a.png"
B = "https://tempfile.aiquickdraw.com/r/b.png"
C = "https://tempfile.aiquickdraw.com/r/c.png"


def success(result, **more):
    return {"state": "success", "resultJson": result, **more}


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        pytest.param("waiting", Working("waiting"), id="waiting has not begun"),
        pytest.param("queuing", Working("queuing"), id="queuing has not begun"),
        pytest.param("generating", Working("generating", generating=True), id="generating has"),
        pytest.param(" Generating ", Working("generating", generating=True), id="however it is written"),
        pytest.param("completed", Unreachable("unknown_state", "completed"), id="a word nobody names"),
        pytest.param("failed", Unreachable("unknown_state", "failed"), id="failed is not fail"),
        pytest.param("", Unreachable("unknown_state"), id="no state"),
        pytest.param(None, Unreachable("unknown_state"), id="a null state"),
        pytest.param(3, Unreachable("unknown_state", "3"), id="a number"),
        pytest.param(["fail"], Unreachable("unknown_state"), id="a list"),
    ],
)
def test_a_state_means_what_its_page_says(state, seen):
    assert MARKET.read({"state": state, "resultJson": "", "failMsg": "no"}) == seen


@pytest.mark.parametrize(
    ("result", "sources"),
    [
        pytest.param({"resultUrls": [A]}, (A,), id="one address"),
        pytest.param({"resultUrls": [C, A, B]}, (C, A, B), id="several keep their order"),
        pytest.param({"resultUrls": [A, B, A]}, (A, B), id="a repeated one is kept once"),
        pytest.param(
            {"resultUrls": ["https://a.example/a b.png"]}, ("https://a.example/a%20b.png",), id="a blank within"
        ),
        pytest.param({"resultUrls": [f" {A}\n"]}, (A,), id="blanks around one"),
        pytest.param({"resultUrls": A}, (A,), id="one that is no list"),
        pytest.param({"resultUrls": json.dumps([A, B])}, (A, B), id="a list in a string"),
        pytest.param({"resultUrls": []}, (), id="an empty list"),
        pytest.param({"resultUrls": None}, (), id="a null list"),
        pytest.param({}, (), id="an empty object"),
        pytest.param(
            {"resultUrls": [A], "firstFrameUrl": [B], "lastFrameUrl": [C]},
            (A,),
            id="stills of the video are no results",
        ),
        pytest.param({"resultUrls": [A], "resultWaterMarkUrls": [B]}, (A,), id="nor is the marked copy"),
        pytest.param({"result_urls": [A]}, (A,), id="the other spelling"),
        pytest.param({"resultObject": {"mask_urls": [A, B]}}, (A, B), id="OmniHuman's masks"),
        pytest.param({"resultObject": {"mask_urls": []}}, (), id="no masks"),
        pytest.param({"resultObject": {"mask_urls": A}}, (A,), id="one mask"),
        pytest.param({"resultObject": {"segments": [{"maskUrl": A}, {"maskUrl": B}]}}, (A, B), id="segments"),
        pytest.param({"resultObject": {"mask_urls": {"0": A}}}, (A,), id="masks by number"),
        pytest.param({"resultObject": {"url": A}}, (A,), id="an object with one address"),
        pytest.param({"clips": [{"fileUrl": A}, {"fileUrl": A}]}, (A,), id="one address twice in a field of no page"),
        pytest.param({"resultObject": None}, (), id="a null object"),
        pytest.param({"resultUrls": [], "resultObject": {"mask_urls": [A]}}, (A,), id="the form that is full"),
        pytest.param(
            {"code": 200, "data": [{"audio_url": A, "image_url": B}, {"audio_url": C}]},
            (A, C),
            id="Suno in the market",
        ),
        pytest.param({"code": 200, "data": []}, (), id="Suno in the market, empty"),
        pytest.param({"code": 200, "data": None}, (), id="Suno in the market, null"),
        pytest.param({"sunoData": [{"audioUrl": A, "imageUrl": B}]}, (A,), id="Suno's own form"),
        pytest.param({"outputs": [A, {"url": B}, {"audio_url": C}]}, (A, B, C), id="outputs"),
        pytest.param({"videoInfo": {"videoUrl": A, "imageUrl": B}}, (A,), id="Runway's form"),
        pytest.param({"videoUrl": A, "imageUrl": B}, (A,), id="a video and its poster"),
        pytest.param({"videoUrl": None, "imageUrl": B}, (B,), id="a picture alone"),
        pytest.param({"videoUrl": "", "imageUrl": B}, (), id="the poster of a missing video"),
        pytest.param({"resultUrls": {"0": A}}, (A,), id="an object in place of a list"),
        pytest.param({"data": {"resultUrls": [A]}}, (A,), id="data that is no list"),
        pytest.param({"newForm": [A]}, (A,), id="a field that no page names"),
        pytest.param(
            {"resultUrls": [], "resultWaterMarkUrls": [B]}, (B,), id="the marked copy where there is no other"
        ),
        pytest.param({"resultUrls": [], "videoUrl": A}, (A,), id="an address beside an empty list"),
        pytest.param({"imageUrl": None}, (), id="a null address"),
        pytest.param([A, B], (A, B), id="a bare array"),
        pytest.param([{"imageUrl": A}, {"videoUrl": B}], (A, B), id="an array of objects"),
        pytest.param([], (), id="an empty array"),
        pytest.param(A, (A,), id="a bare string"),
    ],
)
@pytest.mark.parametrize("wrap", [json.dumps, lambda result: result], ids=["in a string", "bare"])
def test_every_known_form_of_results_is_read(wrap, result, sources):
    assert MARKET.read(success(wrap(result))) == ready(sources)


@pytest.mark.parametrize("result", [pytest.param("", id="blank"), pytest.param(None, id="null"), "  ", "null", '""'])
def test_a_success_without_any_result_is_ready_and_empty(result):
    assert MARKET.read(success(result)) == ready(())


def test_a_string_wrapped_twice_is_read():
    assert MARKET.read(success(json.dumps(json.dumps({"resultUrls": [A]})))) == ready((A,))
    assert MARKET.read(success(json.dumps(A))) == ready((A,))


@pytest.mark.parametrize(
    "result",
    [
        pytest.param('{"resultUrls":["' + A, id="truncated"),
        pytest.param('{"resultUrls":["' + A + '"]', id="truncated by one brace"),
        pytest.param(f"done, see {A}", id="prose with an address in it"),
        pytest.param("<html></html>", id="HTML"),
        pytest.param("[" * 10_000 + "]" * 10_000, id="nested 10,000 deep"),
        pytest.param("7", id="a number"),
        pytest.param("true", id="a truth"),
        pytest.param({"resultUrls": ["/relative/a.png"]}, id="a relative address"),
        pytest.param({"resultUrls": ["//a.example/a.png"]}, id="an address without a scheme"),
        pytest.param({"resultUrls": ["ftp://a.example/a.png"]}, id="ftp"),
        pytest.param({"resultUrls": ["file:///etc/passwd"]}, id="a file"),
        pytest.param({"resultUrls": ["javascript:alert(1)"]}, id="a script"),
        pytest.param({"resultUrls": ["data:image/png;base64,AA=="]}, id="inline bytes"),
        pytest.param({"resultUrls": ["https:///a.png"]}, id="no host"),
        pytest.param({"resultUrls": ["https://[a.example/a.png"]}, id="a broken bracket"),
        pytest.param({"resultUrls": ["https://a.example/\x00.png"]}, id="a NUL within"),
        pytest.param({"resultUrls": ["https://a.example/\ud800.png"]}, id="half a surrogate pair"),
        pytest.param({"resultUrls": ["https://a.example\\@kie.ai/a"]}, id="a backslash"),
        pytest.param({"resultUrls": ["https://a.example/" + "a" * 4096]}, id="4,114 characters"),
        pytest.param({"resultUrls": [A, 7]}, id="a number among them"),
        pytest.param({"resultUrls": [A, [B]]}, id="a list among them"),
        pytest.param({"resultUrls": [A, {"name": "b"}]}, id="an object without an address"),
        pytest.param({"resultUrls": 1}, id="a number in place of a list"),
        pytest.param({"videoInfo": [A]}, id="videoInfo that is no object"),
    ],
)
def test_output_that_cannot_be_read_is_named_and_never_guessed(result):
    seen = MARKET.read(success(result if isinstance(result, str) else json.dumps(result)))

    assert isinstance(seen, Unreadable)
    assert seen.fields
    assert all(field.startswith("resultJson") for field in seen.fields)


def test_many_results_and_4096_characters_are_not_too_much():
    many = [f"{A}?{n}" for n in range(1000)]
    long = "https://a.example/" + "a" * 4078

    assert MARKET.read(success({"resultUrls": many})) == ready(tuple(many))
    assert MARKET.read(success({"resultUrls": [long]})) == ready((long,))


@pytest.mark.parametrize(
    ("message", "code", "seen"),
    [
        pytest.param("Bad prompt", "422", Failed("Bad prompt", "422"), id="both as text"),
        pytest.param("Bad prompt", 400, Failed("Bad prompt", "400"), id="a number"),
        pytest.param("No", "GENERATION_FAILED", Failed("No", "GENERATION_FAILED"), id="a word"),
        pytest.param("No", None, Failed("No"), id="no code"),
        pytest.param("No", "", Failed("No"), id="a blank code"),
        pytest.param("No", 0, Failed("No"), id="code 0 is none"),
        pytest.param("No", "0", Failed("No"), id="nor is its text"),
        pytest.param("No", True, Failed("No"), id="nor is a truth"),
        pytest.param("No", 10**40, Failed("No"), id="nor is a number beyond reason"),
        pytest.param("a\x00b\n\tc\x1b d\ud800", None, Failed("a b c d"), id="control characters"),
    ],
)
def test_a_failure_has_the_providers_message(message, code, seen):
    record = {"state": "fail", "failMsg": message, "failCode": code, "resultJson": ""}

    assert MARKET.read(record) == seen


def test_a_long_message_is_cut_between_two_words():
    seen = MARKET.read({"state": "fail", "failMsg": "x" * 600 + " y" * MAX_TEXT, "failCode": "z" * 1000})

    assert seen.message == "x" * 600 + " y" * ((MAX_TEXT - 601) // 2)
    assert seen.code == "z" * 1000


@pytest.mark.parametrize("message", ["", None, " \n", "\x00", [], {}, 1.5, True])
def test_a_failure_is_never_without_a_message(message):
    seen = MARKET.read({"state": "fail", "failMsg": message})

    assert isinstance(seen, Failed)
    assert seen.message.startswith("KIE says")


BEGAN = 1777000000000
ENDED = datetime(2026, 4, 24, 3, 7, 25, tzinfo=UTC)


@pytest.mark.parametrize(
    ("times", "completed_at", "took"),
    [
        pytest.param(
            {"createTime": BEGAN, "completeTime": BEGAN + 45_500, "costTime": 99},
            ENDED + timedelta(milliseconds=500),
            45.5,
            id="the difference of both times",
        ),
        pytest.param(
            {"createTime": str(BEGAN), "completeTime": str(BEGAN + 45_000)},
            ENDED,
            45,
            id="as text",
        ),
        pytest.param(
            {"createTime": BEGAN // 1000, "completeTime": BEGAN // 1000 + 45},
            ENDED,
            45,
            id="in seconds",
        ),
        pytest.param(
            {"createTime": "2026-04-24T03:06:40Z", "completeTime": "2026-04-24T05:07:25+02:00"},
            ENDED,
            45,
            id="ISO 8601",
        ),
        pytest.param(
            {"createTime": "2026-04-24 03:06:40", "completeTime": "2026-04-24 03:07:25"},
            None,
            45,
            id="without a zone: a difference, and no moment",
        ),
        pytest.param(
            {"createTime": "2026-04-24 03:06:40", "completeTime": BEGAN + 45_000, "costTime": 44},
            ENDED,
            44,
            id="one of them without a zone",
        ),
        pytest.param({"completeTime": BEGAN + 45_000, "costTime": 45}, ENDED, 45, id="one of them"),
        pytest.param({"costTime": 45}, None, 45, id="seconds alone"),
        pytest.param({"costTime": "45"}, None, 45, id="seconds as text"),
        pytest.param({"costTime": 187_808}, None, None, id="milliseconds are no seconds"),
        pytest.param({"costTime": -5}, None, None, id="less than nothing"),
        pytest.param({"costTime": 10**400}, None, None, id="longer than anything"),
        pytest.param({"costTime": -(10**400)}, None, None, id="and shorter than anything"),
        pytest.param(
            {"createTime": BEGAN + 9, "completeTime": BEGAN},
            ENDED.replace(minute=6, second=40),
            None,
            id="done before it began",
        ),
        pytest.param({"createTime": None, "completeTime": ""}, None, None, id="no times"),
        pytest.param({"completeTime": 10**300}, None, None, id="a time beyond the calendar"),
        pytest.param({"completeTime": float("nan")}, None, None, id="no number"),
        pytest.param({"completeTime": "soon"}, None, None, id="no time"),
        pytest.param({"completeTime": "0001-01-01T00:00:00+14:00"}, None, None, id="year one"),
        pytest.param({"completeTime": 5}, None, None, id="the year 1970"),
    ],
)
def test_the_duration_is_read_from_any_of_the_times(times, completed_at, took):
    seen = MARKET.read(success({"resultUrls": [A]}, **times))

    assert seen == ready((A,), completed_at, None if took is None else timedelta(seconds=took))


@pytest.mark.parametrize(
    ("result", "results"),
    [
        pytest.param({"resultUrls": [A, "", None, B]}, (A, None, None, B), id="entries of a list without an address"),
        pytest.param({"resultUrls": [None]}, (None,), id="one entry without an address"),
        pytest.param({"data": [{"audio_url": "", "image_url": B}]}, (None,), id="a track that has cover art alone"),
        pytest.param({"sunoData": [{"title": "rain"}, {"audioUrl": A}]}, (None, A), id="a track without audio"),
        pytest.param({"resultUrls": [None], "videoUrl": A}, (A,), id="an address beside a list without one"),
    ],
)
def test_an_entry_of_a_list_without_an_address_is_announced_and_has_not_arrived(result, results):
    seen = MARKET.read(success(json.dumps(result)))

    assert seen == Ready(tuple(Result(f"#{n}", n, () if one is None else (one,)) for n, one in enumerate(results)))


def test_an_address_that_stands_beside_nothing_but_holes_is_named_and_is_no_success_without_output():
    holes = success({"resultUrls": [None], "clips": [{"fileUrl": A, "posterUrl": B}]})

    assert MARKET.read(holes) == Unreadable(("resultJson.clips.fileUrl",))
    assert MARKET.read(success({"resultUrls": [None, C], "clips": [{"fileUrl": A}]})).available
    assert not MARKET.read(success({"resultUrls": [None], "clips": [{"posterUrl": B}]})).available


@pytest.mark.parametrize(
    "result", [{"videoUrl": None}, {"videoInfo": {"videoUrl": ""}}, {"resultObject": {"url": None}}]
)
def test_a_named_field_without_an_address_announces_nothing(result):
    assert MARKET.read(success(json.dumps(result))) == Ready(())


def test_a_result_is_known_by_kies_own_id_and_its_addresses_are_alternatives():
    track = {"id": "a1", "audioUrl": A, "sourceAudioUrl": B, "streamAudioUrl": C}

    assert MARKET.read(success({"sunoData": [track]})) == Ready((Result("a1", 0, (A, B)),))


@pytest.mark.parametrize("unusable", ["", "#0", 7, None, "x" * 201, "a\nb"])
def test_an_id_that_tells_nothing_is_replaced_by_the_position(unusable):
    track = {"id": unusable, "audioUrl": A}

    assert MARKET.read(success({"sunoData": [track]})) == ready((A,))


def test_an_id_that_repeats_tells_nothing_apart():
    tracks = [{"id": "x", "audioUrl": A}, {"id": "x", "audioUrl": B}]

    assert [result.key for result in MARKET.read(success({"sunoData": tracks})).results] == ["x", "#1"]


class TestWords:
    """Text models answer in `resultObject`: a document, beside the addresses or alone."""

    def test_words_are_a_document_and_a_plain_text(self):
        heard = {"text": "good evening", "words": [{"text": "good", "start": 0.1}]}

        document, plain = MARKET.read(success(json.dumps({"resultObject": heard}))).results

        assert (document.n, document.mime, json.loads(document.text)) == (0, "application/json", heard)
        assert (plain.n, plain.mime, plain.text) == (1, "text/plain", "good evening")

    @pytest.mark.parametrize(
        "value", [{"subject_status": 1}, {"points": [0] * 20_000}, {"text": ["see https://a.b", 1]}]
    )
    def test_numbers_and_lists_are_a_document_alone(self, value):
        (document,) = MARKET.read(success(json.dumps({"resultObject": value}))).results

        assert json.loads(document.text) == value

    def test_a_bare_text_is_both(self):
        document, plain = MARKET.read(success(json.dumps({"resultObject": "a text"}))).results

        assert json.loads(document.text) == plain.text == "a text"

    def test_what_stands_beside_addresses_is_kept_beside_them(self):
        layers = {"layers": [{"file": A, "name": "sky", "box": [0, 0, 9, 9]}, {"file": B, "name": "sea", "box": []}]}

        *files, document = MARKET.read(success(json.dumps({"resultObject": layers}))).results

        assert [one.addresses for one in files] == [(A,), (B,)]
        assert json.loads(document.text) == layers

    def test_text_that_no_database_holds_is_made_writable(self):
        document, plain = MARKET.read(success({"resultObject": {"text": "a\0b\ud800c"}})).results

        assert plain.text == "ab?c"
        assert json.loads(document.text) == {"text": "a\0b\ud800c"}
        assert document.text.isascii()

    def test_words_in_an_unknown_field_are_named(self):
        assert MARKET.read(success({"answer": {"verse": "la la"}})) == Unreadable(("resultJson.answer.verse",))


@pytest.mark.parametrize(
    "field",
    [
        "originUrl", "origin_image_url", "inputUrls", "posterUrl", "coverUrl", "thumbnail", "previewUrl",
        "streamAudioUrl", "referenceImages", "firstFrameUrl", "lastFrameUrl", "callBackUrl", "param",
    ],
)  # fmt: skip
def test_an_address_of_an_input_a_poster_or_a_stream_is_no_result(field):
    assert MARKET.read(success({"resultUrls": [], field: [A]})) == Ready(())
    assert MARKET.read(success({}, **{field: A})) == Ready(())


def test_a_failure_beside_finished_results_is_kept_as_a_contradiction():
    record = {
        "state": "fail",
        "failMsg": "No luck",
        "failCode": 501,
        "resultJson": json.dumps({"resultUrls": [None, A]}),
    }

    assert MARKET.read(record) == Ready((Result("#1", 0, (A,)),), contradiction="No luck (501)")


def test_an_address_that_cannot_be_fetched_is_named_also_in_a_field_of_no_page():
    assert MARKET.read(success({"clips": [{"fileUrl": "http://["}]})) == Unreadable(("resultJson.clips.fileUrl",))


def test_files_and_words_in_an_object_that_is_a_string_are_both_results():
    segments = {"segments": [{"name": "cat", "maskUrl": A}]}

    file, document = MARKET.read(success({"resultObject": json.dumps(segments)})).results

    assert (file.addresses, json.loads(document.text)) == ((A,), segments)


def test_the_status_beside_masks_is_no_result():
    assert MARKET.read(success({"resultObject": {"status": 1, "mask_urls": [A]}})) == ready((A,))
