"""The dialects other than the market: their states, their results, and the fields that are no results."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.domain.observations import Failed, Unreachable, Unreadable, Working
from reconciler.kie.dialects import by_name
from reconciler.kie.dialects.places import each_named
from reconciler.kie.dialects.suno import is_stem
from testkit.answers import ready

A = "https://tempfile.aiquickdraw.com/p/a.mp4"
B = "https://tempfile.aiquickdraw.com/p/b.mp4"
X = "https://tempfile.aiquickdraw.com/p/no-result.png"

GENERATING = Working("generating", generating=True)
ERROR = {"errorCode": 400, "errorMessage": "Prompt refused"}
REFUSED = Failed("Prompt refused", "400")

COUNTED = {
    "veo": {"response": {"resultUrls": [A, B], "originUrls": [X], "resolution": "1080p"}},
    "aleph": {"response": {"resultVideoUrl": A, "resultImageUrl": X}},
    "gpt4o": {"response": {"resultUrls": [A, B]}},
    "flux_kontext": {"response": {"resultImageUrl": A, "originImageUrl": X}},
    "luma": {"response": {"resultUrls": [A, B], "originUrls": [X]}},
    "midjourney": {"resultInfoJson": {"resultUrls": [{"resultUrl": A}, {"resultUrl": B}]}},
    "suno_cover": {"response": {"images": [A, B]}},
}
ONE = {"aleph", "flux_kontext"}


def addresses(seen):
    """Return every address of every result, in KIE's order."""
    return [address for result in seen.results for address in result.addresses]


@pytest.mark.parametrize("name", COUNTED)
class TestFamiliesThatCount:
    """successFlag: 0 generating, 1 success, 2 and 3 failed; Suno's covers differ."""

    def test_1_is_ready_with_the_results_only(self, name):
        record = {"successFlag": 1, "errorCode": None, "errorMessage": "", **COUNTED[name]}

        assert by_name(name).read(record) == ready((A,) if name in ONE else (A, B))

    def test_the_flag_may_be_text_and_the_results_json_in_a_string(self, name):
        (place, results), *_ = COUNTED[name].items()
        record = {"successFlag": "1", place: json.dumps(results)}

        assert by_name(name).read(record) == ready((A,) if name in ONE else (A, B))

    def test_1_without_results_is_ready_and_empty(self, name):
        (place, _), *_ = COUNTED[name].items()

        assert by_name(name).read({"successFlag": 1, place: None}) == ready(())
        assert by_name(name).read({"successFlag": 1}) == ready(())

    def test_results_that_cannot_be_read_are_named(self, name):
        (place, _), *_ = COUNTED[name].items()

        for broken in ("{", [A], 5):
            seen = by_name(name).read({"successFlag": 1, place: broken})
            assert isinstance(seen, Unreadable)
            assert seen.fields[0].startswith(place)

    def test_0_is_running(self, name):
        seen = by_name(name).read({"successFlag": 0, "response": None})

        assert seen == (Working("pending") if name == "suno_cover" else GENERATING)

    def test_2_is_failed_with_the_providers_message(self, name):
        seen = by_name(name).read({"successFlag": 2, **ERROR})

        assert seen == (GENERATING if name == "suno_cover" else REFUSED)

    def test_3_is_failed_with_the_providers_message(self, name):
        assert by_name(name).read({"successFlag": 3, **ERROR}) == REFUSED

    @pytest.mark.parametrize("flag", [None, "", "soon", 9, -1, 0.5, True, [1], {"1": 1}])
    def test_another_flag_settles_nothing(self, name, flag):
        seen = by_name(name).read({"successFlag": flag, **ERROR, **COUNTED[name]})

        assert isinstance(seen, Unreachable)
        assert seen.reason == "unknown_state"


def test_veo_4k_has_posters_that_are_no_results():
    record = {
        "successFlag": 1,
        "createTime": "2026-04-24 03:06:40",
        "completeTime": "2026-04-24 03:08:40",
        "response": {"mediaIds": ["m"], "resultUrls": [A], "imageUrls": [X]},
    }

    assert by_name("veo").read(record) == ready((A,), None, timedelta(minutes=2))


def test_a_dialect_with_iso_times_gives_the_completion_time_too():
    record = {
        "successFlag": 1,
        "createTime": "2024-03-20T10:29:00Z",
        "completeTime": "2024-03-20T10:30:00Z",
        **COUNTED["flux_kontext"],
    }

    assert by_name("flux_kontext").read(record) == ready(
        (A,), datetime(2024, 3, 20, 10, 30, tzinfo=UTC), timedelta(minutes=1)
    )


def test_luma_4_has_its_results_and_only_the_callback_failed():
    assert by_name("luma").read({"successFlag": 4, **COUNTED["luma"]}) == ready((A, B))
    assert isinstance(by_name("veo").read({"successFlag": 4, **COUNTED["veo"]}), Unreachable)


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        pytest.param({}, GENERATING, id="no error fields"),
        pytest.param({"errorCode": 0, "errorMessage": ""}, GENERATING, id="empty error fields"),
        pytest.param({"errorCode": None, "errorMessage": None}, GENERATING, id="null error fields"),
        pytest.param({"errorCode": 200, "errorMessage": " "}, GENERATING, id="a code of success"),
        pytest.param({"errorCode": [], "errorMessage": {}}, GENERATING, id="error fields of no form"),
        pytest.param(ERROR, REFUSED, id="both say failed"),
        pytest.param({"errorMessage": "Prompt refused"}, Failed("Prompt refused"), id="a message"),
        pytest.param(
            {"errorCode": 500},
            Failed("KIE says that the task failed, without a reason", "500"),
            id="a code",
        ),
    ],
)
def test_alephs_0_is_running_unless_the_record_names_an_error(fields, seen):
    assert by_name("aleph").read({"successFlag": 0, **fields}) == seen


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        pytest.param({"successFlag": 0, "status": "GENERATING"}, GENERATING, id="both say generating"),
        pytest.param({"status": "GENERATING"}, GENERATING, id="the word alone"),
        pytest.param({"successFlag": 0}, GENERATING, id="the flag alone"),
        pytest.param({"successFlag": 0, "status": "SUCCESS"}, ready((A,)), id="the word is ahead"),
        pytest.param({"successFlag": 1, "status": "GENERATING"}, ready((A,)), id="the flag is"),
        pytest.param({"successFlag": 1, "status": "NEW"}, ready((A,)), id="a new word beside 1"),
        pytest.param({"status": "CREATE_TASK_FAILED", "response": None, **ERROR}, REFUSED, id="not created"),
        pytest.param({"status": "GENERATE_FAILED", "response": None, **ERROR}, REFUSED, id="not generated"),
        pytest.param({"successFlag": 2, "status": "NEW", "response": None, **ERROR}, REFUSED, id="the flag failed"),
        pytest.param({"status": "PROCESSING"}, Working("processing", generating=True), id="a word of no page"),
        pytest.param({"successFlag": 0, "status": "NEW"}, Unreachable("unknown_state", "NEW"), id="a new word"),
        pytest.param({}, Unreachable("unknown_state"), id="neither"),
    ],
)
def test_4o_has_a_flag_and_a_status(fields, seen):
    record = {"response": {"result_urls": [A]}, "progress": "0.48", **fields}

    assert by_name("gpt4o").read(record) == seen


def test_midjourneys_results_may_be_plain_strings():
    record = {"successFlag": 1, "resultInfoJson": {"resultUrls": [A, B]}}

    assert by_name("midjourney").read(record) == ready((A, B))


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        pytest.param("wait", Working("wait"), id="wait has not begun"),
        pytest.param("queueing", Working("queueing"), id="queueing has not begun"),
        pytest.param("generating", GENERATING, id="generating has"),
        pytest.param("success", ready((A,)), id="success: the video without its poster"),
        pytest.param("fail", Failed("No luck", "400"), id="fail, its code a number"),
        pytest.param("expired", Unreachable("unknown_state", "expired"), id="a word nobody names"),
        pytest.param(None, Unreachable("unknown_state"), id="no state"),
    ],
)
def test_only_the_state_of_runway_counts(state, seen):
    record = {
        "state": state,
        "videoInfo": {"videoId": "v", "videoUrl": "" if state == "fail" else A, "imageUrl": X},
        "failCode": 400,
        "failMsg": "No luck",
        "expireFlag": 0,
    }

    assert by_name("runway").read(record) == seen


TRACKS = {
    "sunoData": [
        {"id": "1", "audioUrl": A, "streamAudioUrl": X, "imageUrl": X, "duration": 1.5},
        {"id": "2", "audioUrl": B, "streamAudioUrl": X, "imageUrl": X, "duration": 1.5},
    ]
}
SUNO = {
    "suno": (TRACKS, (A, B)),
    "suno_wav": ({"audioWavUrl": A}, (A,)),
    "suno_stems": ({"originUrl": X, "instrumentalUrl": A, "vocalUrl": B, "drumsUrl": None}, (A, B)),
    "suno_video": ({"videoUrl": A}, (A,)),
    "suno_cover": ({"images": [A, B]}, (A, B)),
}


@pytest.mark.parametrize("field", ["status", "successFlag"])
@pytest.mark.parametrize("name", SUNO)
class TestSuno:
    """The states that all of Suno's dialects share, in `status` or in `successFlag`."""

    def test_pending_is_not_generating(self, name, field):
        assert by_name(name).read({field: "PENDING", "response": None}) == Working("pending")

    @pytest.mark.parametrize("state", ["TEXT_SUCCESS", "FIRST_SUCCESS"])
    def test_an_intermediate_state_is_no_success(self, name, field, state):
        seen = by_name(name).read({field: state, "response": SUNO[name][0]})

        assert seen == Working(state.lower(), generating=True)

    def test_success_has_every_result_in_order(self, name, field):
        response, sources = SUNO[name]

        seen = by_name(name).read({field: "SUCCESS", "response": response})
        assert addresses(seen) == list(sources)

    @pytest.mark.parametrize("response", [None, {}])
    def test_success_may_be_empty(self, name, field, response):
        assert by_name(name).read({field: "SUCCESS", "response": response}) == ready(())

    @pytest.mark.parametrize("response", ["{", [A], 5])
    def test_a_response_that_cannot_be_read_is_named(self, name, field, response):
        for state in ("SUCCESS", "CALLBACK_EXCEPTION"):
            seen = by_name(name).read({field: state, "response": response})
            assert isinstance(seen, Unreadable)
            assert seen.fields[0].startswith("response")

    @pytest.mark.parametrize(
        "state",
        [
            "CREATE_TASK_FAILED",
            "GENERATE_AUDIO_FAILED",
            "GENERATE_WAV_FAILED",
            "GENERATE_MP4_FAILED",
            "SENSITIVE_WORD_ERROR",
        ],
    )
    def test_each_failure_state_is_failed(self, name, field, state):
        assert by_name(name).read({field: state, **ERROR}) == REFUSED

    def test_a_failed_callback_does_not_undo_the_music(self, name, field):
        response, sources = SUNO[name]
        record = {field: "CALLBACK_EXCEPTION", "response": response}

        assert addresses(by_name(name).read(record)) == list(sources)

    def test_a_failed_callback_without_music_is_still_working(self, name, field):
        waiting = Working("callback_exception", generating=True)

        assert by_name(name).read({field: "CALLBACK_EXCEPTION"}) == waiting
        assert by_name(name).read({field: "CALLBACK_EXCEPTION", "response": {}}) == waiting

    @pytest.mark.parametrize("state", ["PAUSED", "GENERATE_OPERA_FAILED", "成功"])
    def test_an_undocumented_state_settles_nothing(self, name, field, state):
        assert by_name(name).read({field: state}) == Unreachable("unknown_state", state)


def test_a_reason_inside_the_response_is_used_if_there_is_no_other():
    record = {"status": "GENERATE_AUDIO_FAILED", "errorCode": 501, "errorMessage": ""}

    seen = by_name("suno").read({**record, "response": {"errorMessage": "Too many words"}})

    assert seen == Failed("Too many words", "501")


def test_the_status_counts_before_the_flag():
    record = {"status": "PENDING", "successFlag": 1, "response": TRACKS}

    assert by_name("suno").read(record) == Working("pending")


def test_a_track_without_its_own_address_uses_the_source_address():
    tracks = [{"audioUrl": "", "sourceAudioUrl": A}, {"audio_url": B}]

    assert by_name("suno").read({"status": "SUCCESS", "response": {"sunoData": tracks}}) == ready((A, B))


def test_a_track_that_is_no_object_makes_the_answer_unusable():
    record = {"status": "SUCCESS", "response": {"sunoData": [5]}}

    assert by_name("suno").read(record) == Unreadable(("response.sunoData",))


class TestWords:
    """Lyrics, notes and voices: their results are words and numbers."""

    def test_lyrics_are_a_document_and_their_plain_text(self):
        texts = [{"text": "la", "title": "A", "status": "complete"}, {"text": "lu", "title": "B", "status": "complete"}]
        record = {"status": "SUCCESS", "response": {"taskId": "t", "data": texts}}

        document, plain = by_name("suno_lyrics").read(record).results

        assert (json.loads(document.text), document.mime) == (texts, "application/json")
        assert (plain.text, plain.mime) == ("la\n\nlu", "text/plain")

    @pytest.mark.parametrize("response", [None, {}, {"taskId": "t", "data": []}, {"data": [{"text": ""}]}])
    def test_lyrics_without_words_are_an_empty_success(self, response):
        assert by_name("suno_lyrics").read({"status": "SUCCESS", "response": response}) == ready(())

    def test_notes_are_a_document(self):
        instruments = [{"name": "Drums", "notes": [{"pitch": 73, "start": "0.03", "velocity": 1}]}]
        record = {"successFlag": 1, "midiData": json.dumps({"state": "complete", "instruments": instruments})}

        (document,) = by_name("suno_midi").read(record).results

        assert json.loads(document.text) == instruments
        assert by_name("suno_midi").read({"successFlag": 2, **ERROR}) == REFUSED

    @pytest.mark.parametrize("midi", [None, "", {}, {"instruments": []}, {"instruments": [{"name": "", "notes": []}]}])
    def test_no_notes_are_an_empty_success(self, midi):
        assert by_name("suno_midi").read({"successFlag": 1, "midiData": midi}) == ready(())

    @pytest.mark.parametrize("midi", ["{instruments", {"instruments": "C D E"}, {"tracks": [{"notes": "C D E"}]}])
    def test_notes_that_cannot_be_read_are_named(self, midi):
        assert isinstance(by_name("suno_midi").read({"successFlag": 1, "midiData": midi}), Unreadable)

    @pytest.mark.parametrize(
        ("record", "seen"),
        [
            ({"status": "wait_processing"}, Working("wait_processing")),
            ({"status": "processing_validate"}, Working("processing_validate", generating=True)),
            ({"status": "fail", **ERROR}, REFUSED),
            ({"status": "success", "voiceId": ""}, ready(())),
        ],
    )
    def test_a_voice_has_states_of_its_own(self, record, seen):
        assert by_name("suno_voice").read(record) == seen

    def test_the_id_of_a_voice_is_its_result(self):
        (document,) = by_name("suno_voice").read({"status": "success", "voiceId": "v-1"}).results

        assert json.loads(document.text) == {"voiceId": "v-1"}


ORIGIN_DATA = [
    {"id": "Saxophone", "stem_type_group_name": "Saxophone", "audio_url": A, "duration": 240.5},
    {"id": "Vocals", "stem_type_group_name": "Vocals", "audio_url": B, "duration": 240.5},
]


@pytest.mark.parametrize(
    ("response", "results"),
    [
        pytest.param({"originData": ORIGIN_DATA, "vocalUrl": None}, [("Saxophone", A), ("Vocals", B)], id="listed"),
        pytest.param({"originData": ORIGIN_DATA, "vocalUrl": B}, [("Saxophone", A), ("Vocals", B)], id="both"),
        pytest.param({"originData": None, "vocalUrl": A}, [("vocalUrl", A)], id="named"),
        pytest.param({"originData": [], "banjoUrl": A}, [("banjoUrl", A)], id="under a name of no page"),
        pytest.param(json.dumps({"vocalUrl": A}), [("vocalUrl", A)], id="in a string"),
        pytest.param({"originUrl": X, "vocalUrl": None}, [], id="the song itself alone"),
        pytest.param({"vocalUrl": A, "streamUrl": X, "coverUrl": X, "imageUrl": X}, [("vocalUrl", A)], id="a stream"),
    ],
)
def test_every_stem_counts_once_and_the_song_never(response, results):
    seen = by_name("suno_stems").read({"successFlag": "SUCCESS", "response": response})

    assert [(result.key, *result.addresses) for result in seen.results] == results


def test_a_place_of_named_fields_that_is_no_object_is_named():
    assert each_named("response", wanted=is_stem)({"response": [A]}).unreadable == ("response",)


@pytest.mark.parametrize(
    ("record", "sources"),
    [
        pytest.param({"response": {"resultUrls": [A], "fullResultUrls": [B]}}, [A], id="the new segment"),
        pytest.param({"response": {"resultUrls": [], "fullResultUrls": [B]}}, [B], id="the whole film without it"),
        pytest.param({"response": None, "info": {"resultUrls": [A]}}, [A], id="in info"),
        pytest.param({"response": {"resultUrls": [], "imageUrls": [X], "originUrls": [X]}}, [], id="posters alone"),
        pytest.param({"response": {"otherUrls": [A], "imageUrls": [X]}}, [A], id="under a name of no page"),
    ],
)
def test_a_veo_film_is_found_in_every_place_and_a_poster_in_none(record, sources):
    assert addresses(by_name("veo").read({"successFlag": 1, **record})) == sources


@pytest.mark.parametrize("flag", [2, 3])
def test_films_beside_a_failure_are_results_and_the_failure_is_kept(flag):
    record = {"successFlag": flag, **ERROR, "response": {"resultUrls": [A, None]}}

    seen = by_name("veo").read(record)

    assert addresses(seen) == [A]
    assert seen.contradiction == "Prompt refused (400)"


def test_a_finished_take_beside_a_failed_one_is_a_result():
    tracks = [{"id": "1", "audioUrl": A}, {"id": "2", "audioUrl": ""}]
    record = {"status": "GENERATE_AUDIO_FAILED", **ERROR, "response": {"sunoData": tracks}}

    seen = by_name("suno").read(record)

    assert [(result.key, result.n, result.addresses) for result in seen.results] == [("1", 0, (A,))]
    assert seen.contradiction == "Prompt refused (400)"
