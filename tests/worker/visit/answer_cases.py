"""Answers of KIE in unusual forms, and what each owes to the user of the shop: a table for `test_visit_answers`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.simulator import LiteralAnswer, MediaSpec

Json = Mapping[str, object] | Sequence[object]

PNG, STILL = MediaSpec(size=3_000), MediaSpec(ext="jpg", size=2_000)
SONG, WAV, SILENCE = MediaSpec("audio", "mp3", 5_000), MediaSpec("audio", "wav", 7_000), MediaSpec("audio", "mp3", 0)
FILM = MediaSpec("video", "mp4", 6_000)
BLANK_IN_NAME = MediaSpec(size=3_000, path="/r/a red panda.png")
DOCUMENTS = ("srt", "vtt", "json", "txt", "pdf", "zip", "glb", "mid", "wav", "pcm", "aiff", "tiff", "psd", "svg")


@dataclass(frozen=True)
class Case:
    """Answers that follow one another, the last of which ends the task, and what is owed after it.

    `owed` lists the results of a success in order: the number of a file of the task, or the content of a document. All
    other files of the task are no results: inputs, posters, streams. `error` is the reason of a failure, `finding` that
    of a row which stays in flight, `contradiction` what the event keeps beside a success.
    """

    name: str
    answers: tuple[LiteralAnswer, ...]
    owed: tuple[int | str | Json, ...] = ()
    files: tuple[MediaSpec, ...] = (PNG,)
    family: str = "market"
    model: str = "nano-banana-2"
    error: str | None = None
    finding: str | None = None
    contradiction: str | None = None

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


def market(result: object, **record: object) -> LiteralAnswer:
    """Return the market's success; `result` becomes the JSON text of `resultJson`, except where it is text already."""
    text = result if isinstance(result, str) else json.dumps(result)
    return LiteralAnswer({"taskId": "task:id", "model": "m", "state": "success", "resultJson": text, **record})


def urls(*entries: object) -> LiteralAnswer:
    """Return the market's success with this list of results."""
    return market({"resultUrls": list(entries)})


def suno(response: object, state: object = "SUCCESS", **record: object) -> LiteralAnswer:
    """Return a record of Suno's pages that have a `status`."""
    return LiteralAnswer({"taskId": "task:id", "status": state, "response": response, **record})


def tracks(*sounds: Json, state: str = "SUCCESS", **record: object) -> LiteralAnswer:
    """Return a record of Suno's music."""
    return suno({"taskId": "task:id", "sunoData": list(sounds)}, state, **record)


def track(name: str, address: object, **fields: object) -> Json:
    """Return one track with a name of its own; its stream and its picture are no results."""
    return {"id": name, "audioUrl": address, "title": "rain", "duration": 181.0, **fields}


def flagged(response: object, flag: object = 1, **record: object) -> LiteralAnswer:
    """Return a record of the pages that have a `successFlag`."""
    return LiteralAnswer({"taskId": "task:id", "successFlag": flag, "response": response, **record})


REQUEST = json.dumps({"input": json.dumps({"prompt": "a room", "image_url": "file:1"}), "model": "m"})
TRANSCRIPT = {"text": "a quiet evening", "language_code": "en", "words": [{"text": "a", "start": 0.2, "end": 0.3}]}
LAYERS = {"layers": [{"order": 0, "name": "sky", "url": "file:0"}, {"order": 1, "name": "boat", "url": "file:1"}]}
VERSES = [{"title": "Tide", "text": "[Verse]\nSalt and rain"}, {"title": "Ebb", "text": "[Verse]\nSand and sun"}]
NOTES = [{"name": "Drums", "notes": [{"pitch": 73, "start": "0.03", "end": "0.18", "velocity": 1}]}]
MASKS = {"status": 1, "mask_urls": ["file:0", "file:1"]}

MARKET = (
    Case("a hole in the list is filled", (urls("file:0", None, "file:2"), urls("file:0", "file:1", "file:2")),
         (0, 1, 2), (PNG, STILL, PNG)),
    Case("the first of the list comes last, blank until then", (urls("", "file:1"), urls("file:0", "file:1")),
         (0, 1), (PNG, STILL)),
    Case("a list is announced whole, then shorter, then filled",
         (urls("file:0", None, None), urls("file:0"), urls("file:0", "file:1", "file:2")), (0, 1, 2), (PNG,) * 3),
    Case("a list grows while it has a hole", (urls(None, "file:1"), urls(None, "file:1", "file:2"),
         urls("file:0", "file:1", "file:2")), (0, 1, 2), (PNG,) * 3),
    Case("one address stands twice in the list", (urls("file:0", "file:0", "file:1"),), (0, 1), (PNG, STILL)),
    Case("65 results", (urls(*[f"file:{n}" for n in range(65)]),), tuple(range(65)), (STILL,) * 65),
    Case("an address needs escaping", (urls("file:0"),), (0,), (BLANK_IN_NAME,)),
    Case("resultJson is wrapped in a string twice", (market(json.dumps(json.dumps({"resultUrls": ["file:0"]}))),),
         (0,)),
    Case("resultJson is a list without an object around it", (market(["file:1", "file:0"]),), (1, 0), (PNG, STILL)),
    Case("all there is has a watermark", (market({"resultUrls": [], "resultWaterMarkUrls": ["file:0"]}),), (0,),
         (FILM,), model="sora-2-text-to-video"),
    Case("the marked film beside the unmarked one",
         (market({"resultUrls": ["file:0"], "resultWaterMarkUrls": ["file:1"]}),), (0,), (FILM, FILM)),
    Case("frames of a film are no results",
         (market({"resultUrls": ["file:0"], "firstFrameUrl": "file:1", "lastFrameUrl": "file:2"}),), (0,),
         (FILM, STILL, STILL)),
    Case("a transcript", (market({"resultObject": TRANSCRIPT}),), (TRANSCRIPT, TRANSCRIPT["text"]), (),  # type: ignore[arg-type]
         model="elevenlabs/speech-to-text"),
    Case("an identification", (market({"resultObject": {"status": 1, "contains_human": False}}),),
         ({"status": 1, "contains_human": False},), (), model="volcengine/human-identification"),
    Case("masks", (market({"resultObject": MASKS}),), (0, 1), (PNG, PNG)),
    Case("segments with names",
         (market({"resultObject": {"segments": [{"name": "cat", "maskUrl": "file:1"}, {"name": "mat", "maskUrl": None},
         ]}}), market({"resultObject": {"segments": [{"name": "cat", "maskUrl": "file:1"},
                                                     {"name": "mat", "maskUrl": "file:0"}]}})),
         (1, 0, {"segments": [{"name": "cat", "maskUrl": "file:1"}, {"name": "mat", "maskUrl": "file:0"}]}),
         (PNG, PNG)),
    Case("layers and their positions", (market({"resultUrls": ["file:0", "file:1"], "resultObject": LAYERS}),),
         (0, 1, LAYERS), (PNG, PNG), model="seedream/5-pro-layer-decomposition"),
    Case("documents of every kind", (urls(*[f"file:{n}" for n in range(len(DOCUMENTS))]),),
         tuple(range(len(DOCUMENTS))), tuple(MediaSpec("file", ext, 1_000) for ext in DOCUMENTS)),
    Case("two songs, the second one blank",
         (market({"data": [{"id": "a", "audio_url": "file:0"}, {"id": "b", "audio_url": None}]}),
          market({"data": [{"id": "a", "audio_url": "file:0"}, {"id": "b", "audio_url": "file:1"}]})),
         (0, 1), (SONG, SONG), model="ai-music-api/generate"),
    Case("a field that nobody knows, with a poster and the input beside it",
         (market({"clips": [{"clipUrl": "file:0", "posterUrl": "file:1"}, {"clipUrl": "file:2", "inputUrl": "file:3"}]},
                 param=REQUEST),), (0, 2), (FILM, STILL, FILM, STILL)),
    Case("the input alone is no result, and the result comes later", (market({"resultUrls": []}, param=REQUEST),
         market({"resultUrls": ["file:0"]}, param=REQUEST)), (0,), (PNG, STILL)),
    Case("the input alone", (market({"resultUrls": [], "originImageUrl": "file:1"}, param=REQUEST),), (),
         (PNG, STILL), finding="empty_success"),
    Case("words in a field that nobody knows", (market({"answer": "a quiet evening"}),), finding="unreadable_output"),
    Case("output cannot be read, then can", (market("{resultUrls:"), urls("file:0")), (0,)),
    Case("PROCESSING, then done", (market("", state="PROCESSING"), urls("file:0")), (0,)),
    Case("a failure in an envelope of 422",
         (LiteralAnswer({"taskId": "task:id", "state": "fail", "resultJson": None, "failCode": "422",
                         "failMsg": "The scene is not allowed."}, 422, "Playground task failed."),),
         error="The scene is not allowed. (422)"),
    Case("a failure in an envelope of 500, after one without a record",
         (LiteralAnswer(None, 500, "Internal error"),
          LiteralAnswer({"taskId": "task:id", "state": "fail", "failCode": "E7", "failMsg": "no faces"}, 500, "no"),
         ), error="no faces (E7)"),
)  # fmt: skip

SUNO = (
    Case("the second track is blank", (tracks(track("a", "file:0"), track("b", "")),
         tracks(track("a", "file:0"), track("b", "file:1"))), (0, 1), (SONG, SONG), "suno", "V5"),
    Case("the blank track comes first, and then stands second", (tracks(track("b", None), track("a", "file:0")),
         tracks(track("a", "file:0"), track("b", "file:1"))), (0, 1), (SONG, SONG), "suno", "V5"),
    Case("an empty stream, and the sound at another address",
         (tracks(track("a", "file:0", sourceAudioUrl="file:1")),), (1,), (SILENCE, SONG), "suno", "V5"),
    Case("streams and pictures are no tracks",
         (tracks(track("a", "", streamAudioUrl="file:1", imageUrl="file:2"), state="FIRST_SUCCESS"),
          tracks(track("a", "file:0", streamAudioUrl="file:1", imageUrl="file:2"))),
         (0,), (SONG, SONG, STILL), "suno", "V5"),
    Case("one take failed and one is finished",
         (tracks(track("a", "file:0"), track("b", ""), state="GENERATE_AUDIO_FAILED", errorMessage="one take broke",
                 errorCode=500),), (0,), (SONG,), "suno", "V5", contradiction="one take broke (500)"),
    Case("only KIE's callback failed",
         (tracks(track("a", "file:0"), track("b", "file:1"), state="CALLBACK_EXCEPTION"),), (0, 1), (SONG, SONG),
         "suno", "V5"),
    Case("a refused word", (tracks(state="SENSITIVE_WORD_ERROR", errorMessage="a name", errorCode=400),), (), (),
         "suno", "V5", error="a name (400)"),
    Case("a WAV", (LiteralAnswer({"taskId": "task:id", "successFlag": "PENDING", "response": None}),
         flagged({"audioWavUrl": "file:0"}, "SUCCESS")), (0,), (WAV,), "suno_wav", "suno-wav"),
    Case("stems in originData alone",
         (flagged({"originUrl": None, "vocalUrl": None,
                   "originData": [{"id": "s1", "stem_type_group_name": "Oboe", "audio_url": "file:0"}]}, "SUCCESS"),),
         (0,), (SONG,), "suno_stems", "suno-vocal-separation"),
    Case("stems in named fields alone, with the song they come from",
         (flagged({"originUrl": "file:2", "originData": [], "vocalUrl": "file:0", "instrumentalUrl": "file:1",
                   "drumsUrl": None}, "SUCCESS"),), (0, 1), (SONG,) * 3, "suno_stems", "suno-vocal-separation"),
    Case("a stem that comes later",
         (flagged({"originData": [{"id": "s1", "audio_url": None}, {"id": "s2", "audio_url": "file:1"}]}, "SUCCESS"),
          flagged({"originData": [{"id": "s1", "audio_url": "file:0"}, {"id": "s2", "audio_url": "file:1"}]},
                  "SUCCESS")),
         (0, 1), (SONG, SONG), "suno_stems", "suno-vocal-separation"),
    Case("a music video with its poster", (flagged({"videoUrl": "file:0", "imageUrl": "file:1"}, "SUCCESS"),), (0,),
         (FILM, STILL), "suno_video", "suno-video"),
    Case("two covers, the first one late", (flagged({"images": [None, "file:1"]}), flagged({"images": ["file:0",
         "file:1"]})), (0, 1), (STILL, STILL), "suno_cover", "suno-cover"),
    Case("lyrics", (suno({"taskId": "task:id", "data": VERSES}),),
         (VERSES, "[Verse]\nSalt and rain\n\n[Verse]\nSand and sun"), (), "suno_lyrics", "suno-lyrics"),
    Case("notes, empty at first", (flagged(None, midiData={"instruments": []}), flagged(None,
         midiData={"state": "complete", "instruments": NOTES})), (NOTES,), (), "suno_midi", "suno-midi"),
    Case("a voice", (LiteralAnswer({"taskId": "task:id", "voiceId": "", "status": "processing_validate"}),
         LiteralAnswer({"taskId": "task:id", "voiceId": "voice_1", "status": "success"})),
         ({"voiceId": "voice_1"},), (), "suno_voice", "suno-voice"),
)  # fmt: skip

FILMS = (
    Case("two films, the second one late; posters and films before cropping beside them",
         (flagged({"resultUrls": ["file:0", None], "originUrls": ["file:2"], "imageUrls": ["file:3"]}),
          flagged({"resultUrls": ["file:0", "file:1"], "originUrls": ["file:2"], "imageUrls": ["file:3"]})),
         (0, 1), (FILM, FILM, FILM, STILL), "veo", "veo3"),
    Case("the film in fullResultUrls alone", (flagged({"resultUrls": [], "fullResultUrls": ["file:0"]}),), (0,),
         (FILM,), "veo", "veo3"),
    Case("the whole film beside the new segment", (flagged({"resultUrls": ["file:0"], "fullResultUrls": ["file:1"]}),),
         (0,), (FILM, FILM), "veo", "veo3"),
    Case("the film in info alone", (flagged(None, info={"resultUrls": '["file:0"]', "imageUrls": ["file:1"]}),), (0,),
         (FILM, STILL), "veo", "veo3"),
    Case("flag 3 beside a film", (flagged({"resultUrls": ["file:0"]}, 3, errorMessage="upscaling broke",
         errorCode=501),), (0,), (FILM,), "veo", "veo3", contradiction="upscaling broke (501)"),
    Case("flag 3", (flagged({"resultUrls": []}, 3, errorMessage="unsafe", errorCode=400),), (), (), "veo", "veo3",
         error="unsafe (400)"),
    Case("failMsg while it waits, and a poster at the end",
         (LiteralAnswer({"taskId": "task:id", "state": "wait", "failCode": 400, "failMsg": "sensitive"}),
          LiteralAnswer({"taskId": "task:id", "state": "success",
                         "generateParam": {"prompt": "a room", "imageUrl": "file:2"},
                         "videoInfo": {"videoId": "v", "videoUrl": "file:0", "imageUrl": "file:1"}})),
         (0,), (FILM, STILL, STILL), "runway", "runway"),
    Case("a poster before the film",
         (flagged({"resultVideoUrl": "", "resultImageUrl": "file:1"}),
          flagged({"resultVideoUrl": "file:0", "resultImageUrl": "file:1"})), (0,), (FILM, STILL), "aleph",
         "runway-aleph"),
    Case("flag 0 with an error", (flagged(None, 0, errorMessage="too long", errorCode=422),), (), (), "aleph",
         "runway-aleph", error="too long (422)"),
    Case("flag 4, and the film it was made from", (flagged({"resultUrls": ["file:0"], "originUrls": ["file:1"]}, 4),),
         (0,), (FILM, FILM), "luma", "luma"),
)  # fmt: skip

PICTURES = (
    Case("names in snake case, and a hole",
         (flagged(None, 0, status="PROCESSING"),
          flagged({"result_urls": ["file:0", None]}, status="SUCCESS"),
          flagged({"result_urls": ["file:0", "file:1"]}, status="SUCCESS")), (0, 1), (PNG, PNG), "gpt4o",
         "gpt4o-image"),
    Case("the picture it was made from", (flagged({"originImageUrl": "file:1", "resultImageUrl": None}),
         flagged({"originImageUrl": "file:1", "resultImageUrl": "file:0"})), (0,), (PNG, STILL), "flux_kontext",
         "flux-kontext-pro"),
    Case("four pictures, the third one late",
         (flagged(None, resultInfoJson={"resultUrls": [{"resultUrl": "file:0"}, {"resultUrl": "file:1"},
                                                       {"resultUrl": None}, {"resultUrl": "file:3"}]}),
          flagged(None, resultInfoJson={"resultUrls": [{"resultUrl": f"file:{n}"} for n in range(4)]})),
         (0, 1, 2, 3), (PNG,) * 4, "midjourney", "midjourney"),
    Case("the list as text, of plain addresses", (flagged(None, resultInfoJson='{"resultUrls":["file:1","file:0"]}'),),
         (1, 0), (PNG, PNG), "midjourney", "midjourney"),
)  # fmt: skip

CASES = MARKET + SUNO + FILMS + PICTURES
