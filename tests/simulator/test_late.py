"""Results that come late, stand in unusual places, or are said word for word by a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from reconciler.simulator import Fault, LiteralAnswer, MediaSpec, Simulator
from reconciler.simulator.faults import read_faults, share_or_faults
from reconciler.simulator.records.dialects import DIALECTS, WORD_DIALECTS
from testkit.waiting import until
from tests.simulator.client import Asking, asking
from tests.simulator.test_callbacks import ear

SOUND = MediaSpec("audio", "mp3", 4000)
PLACES: dict[str, tuple[str, ...]] = {
    "veo": ("response", "resultUrls"),
    "gpt4o": ("response", "resultUrls"),
    "luma": ("response", "resultUrls"),
    "suno_cover": ("response", "images"),
}


async def data(ask: Asking, task: str) -> dict[str, Any]:
    record: dict[str, Any] = (await ask.record(task))[1]["data"]
    return record


async def listed(ask: Asking, task: str) -> Any:
    """Return the addresses that the record lists, None or "" for one that has not arrived."""
    record, family = await data(ask, task), ask.kie.tasks[task].family
    match family:
        case "market":
            return json.loads(record["resultJson"])["resultUrls"]
        case "suno":
            return [track["audioUrl"] for track in record["response"]["sunoData"]]
        case "suno_stems":
            return [stem["audio_url"] for stem in record["response"]["originData"]]
        case "midjourney":
            return [entry["resultUrl"] for entry in record["resultInfoJson"]["resultUrls"]]
    for name in PLACES[family]:
        record = record[name]
    return record


LISTS = ["market", "suno", "suno_stems", "midjourney", *PLACES]


def three(kie: Simulator, family: str, **order: Any) -> str:
    kind = ("audio", "mp3") if family.startswith("suno_stems") or family == "suno" else ("image", "png")
    return kie.add_task(family=family, results=[MediaSpec(*kind, 1000)] * 3, **order)


@pytest.mark.parametrize("family", LISTS)
async def test_the_last_result_is_blank_until_its_time_has_come(family: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = three(kie, family, faults=[Fault("late.hole", seconds=75)])
        whole = kie.addresses(kie.tasks[task])[:3]
        blank = "" if family == "suno" else None
        assert await listed(ask, task) == [*whole[:2], blank]
        kie.skip(74)
        assert await listed(ask, task) == [*whole[:2], blank]
        kie.skip(1)
        assert await listed(ask, task) == whole


@pytest.mark.parametrize("family", LISTS)
async def test_a_success_is_empty_until_its_time_has_come(family: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = three(kie, family, faults=[Fault("late.empty", seconds=75)])
        assert await listed(ask, task) == []
        kie.skip(75)
        assert await listed(ask, task) == kie.addresses(kie.tasks[task])[:3]


@pytest.mark.parametrize("family", LISTS)
async def test_a_list_grows_one_by_one(family: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = three(kie, family, faults=[Fault("late.growing", seconds=60)])
        whole = kie.addresses(kie.tasks[task])[:3]
        for count in (1, 2, 3):
            assert await listed(ask, task) == whole[:count]
            kie.skip(30)


@pytest.mark.parametrize("family", sorted(set(DIALECTS) - WORD_DIALECTS))
@pytest.mark.parametrize("what", ["hole", "empty", "growing"])
async def test_no_dialect_shows_a_late_result_before_and_every_dialect_shows_it_afterwards(
    family: str, what: str
) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family=family, faults=[Fault(f"late.{what}", seconds=60)])
        results = kie.addresses(kie.tasks[task])[: len(kie.tasks[task].results)]
        late = results[1:] if what == "growing" else results[-1:] if what == "hole" else results
        before = json.dumps((await ask.record(task))[1])
        assert [address for address in results if address in before] == [a for a in results if a not in late]
        kie.skip(60)
        after = json.dumps((await ask.record(task))[1])
        assert all(address in after for address in results)


async def test_late_counts_from_the_end_of_a_task_and_calm_ends_it() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = three(kie, "market", life=100, faults=[Fault("late.empty", seconds=50)])
        kie.skip(120)
        assert await listed(ask, task) == []
        kie.calm()
        assert len(await listed(ask, task)) == 3


async def test_a_late_fault_for_the_simulator_strikes_so_many_new_tasks() -> None:
    async with Simulator(limits=False) as kie, asking(kie) as ask:
        before = three(kie, "market")
        kie.strike("late.empty", times=2, seconds=10)
        struck = [three(kie, "market"), three(kie, "market")]
        spared = three(kie, "market")
        assert [len(await listed(ask, task)) for task in (before, *struck, spared)] == [3, 0, 0, 3]


async def test_a_callback_shows_what_the_record_shows_at_that_moment() -> None:
    async with Simulator() as kie, ear() as listening:
        kie.add_task(
            family="suno", results=[SOUND] * 2, callback_url=listening.url, faults=[Fault("late.hole", seconds=60)]
        )
        await until(lambda: len(listening.heard) == 3, what="Suno's three callbacks")
        complete = next(body for _, body in listening.heard if body["data"]["callbackType"] == "complete")
        assert [bool(track["audio_url"]) for track in complete["data"]["data"]] == [True, False]


def only(record: object, address: str) -> list[str]:
    """Return the paths of names at which an address stands in a record."""
    if isinstance(record, dict):
        return [f"{name}.{path}".strip(".") for name, value in record.items() for path in only(value, address)]
    if isinstance(record, list):
        return [path for value in record for path in only(value, address)]
    return [""] if record == address else []


@pytest.mark.parametrize(
    ("family", "place", "path"),
    [
        ("veo", "full", "response.fullResultUrls"),
        ("veo", "info", "info.resultUrls"),
        ("suno_stems", "origin", "response.originData.audio_url"),
        ("suno", "source", "response.sunoData.sourceAudioUrl"),
    ],
)
async def test_results_can_stand_in_one_unusual_place_only(family: str, place: str, path: str) -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family=family, faults=[Fault(f"place.{place}")])
        for address in kie.addresses(kie.tasks[task])[: len(kie.tasks[task].results)]:
            assert only(await data(ask, task), address) == [path]


async def test_a_place_can_be_ordered_after_the_first_poll_and_calm_takes_it_back() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family="veo")
        for place, path in ((None, "response.resultUrls"), ("place.full", "response.fullResultUrls")):
            if place:
                kie.strike(place, task=task)
            assert only(await data(ask, task), kie.addresses(kie.tasks[task])[0]) == [path]
        kie.calm()
        assert only(await data(ask, task), kie.addresses(kie.tasks[task])[0]) == ["response.resultUrls"]


async def test_a_film_can_be_there_with_a_watermark_only() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(model="sora-2-text-to-video", faults=[Fault("place.watermark")])
        result = json.loads((await data(ask, task))["resultJson"])
        assert result == {"resultUrls": [], "resultWaterMarkUrls": kie.addresses(kie.tasks[task])}


async def test_a_silent_stream_answers_without_a_byte_and_the_source_has_the_sound() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family="suno", faults=[Fault("place.source")])
        track = (await data(ask, task))["response"]["sunoData"][0]
        sizes = []
        for name in ("audioUrl", "sourceAudioUrl"):
            async with ask.session.get(track[name]) as answer:
                assert answer.status == 200
                sizes.append(len(await answer.read()))
        assert sizes == [0, kie.file(task).size]


async def test_4o_can_say_that_it_is_processing() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        told = await data(ask, kie.add_task(family="gpt4o", life=100, variant="processing"))
        assert (told["status"], told["successFlag"], told["response"]) == ("PROCESSING", 0, None)


async def test_one_ordered_stem_is_in_origin_data_and_in_no_named_field() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(family="suno_stems", results=[SOUND], variant="advanced")
        response = (await data(ask, task))["response"]
        assert [stem["stem_type_group_name"] for stem in response["originData"]] == ["Saxophone"]
        named = {name: value for name, value in response.items() if name.endswith("Url") and name != "originUrl"}
        assert len(named) == 14
        assert set(named.values()) == {None}


FIRST = {"taskId": "task:id", "state": "success", "resultJson": '{"resultUrls":["file:0",null]}'}
SECOND = {"taskId": "task:id", "state": "success", "resultJson": '{"resultUrls":["file:0","file:1"]}'}


async def told(ask: Asking, task: str, polls: int) -> list[list[Any]]:
    return [json.loads((await data(ask, task))["resultJson"])["resultUrls"] for _ in range(polls)]


async def test_literal_answers_follow_one_another_by_polls_and_the_last_one_repeats() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(results=[MediaSpec()] * 2, answers=[LiteralAnswer(FIRST, polls=2), LiteralAnswer(SECOND)])
        one, two = kie.addresses(kie.tasks[task])
        assert await told(ask, task, 5) == [[one, None]] * 2 + [[one, two]] * 3
        async with ask.session.get(two) as answer:
            assert len(await answer.read()) == kie.file(task, 1).size


async def test_literal_answers_follow_one_another_by_time_however_often_somebody_asks() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        empty = {**FIRST, "resultJson": '{"resultUrls":[]}'}
        answers = [LiteralAnswer(empty, seconds=60), LiteralAnswer(FIRST, seconds=15), LiteralAnswer(SECOND)]
        task = kie.add_task(results=[MediaSpec()] * 2, answers=answers)
        seen = []
        for seconds in (59, 1, 14, 1):
            seen.append(len([url for url in (await told(ask, task, 2))[1] if url]))
            kie.skip(seconds)
        assert [*seen, len(list(filter(None, (await told(ask, task, 1))[0])))] == [0, 0, 1, 1, 2]


async def test_a_poll_that_a_fault_swallowed_is_not_counted() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(
            results=[MediaSpec()] * 2,
            answers=[LiteralAnswer(FIRST), LiteralAnswer(SECOND)],
            faults=[Fault("record.html_502")],
        )
        assert (await ask.session.get(f"{kie.url}/api/v1/jobs/recordInfo?taskId={task}")).status == 502
        assert (await told(ask, task, 1))[0][1] is None


async def test_a_whole_envelope_can_be_literal() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        envelope = {"code": 422, "msg": "Playground task failed.", "data": {"taskId": "task:id", "state": "fail"}}
        task = kie.add_task(task_id="T", answers=[LiteralAnswer.of(envelope)])
        answer = (await ask.record(task))[1]
        assert answer == {"code": 422, "msg": "Playground task failed.", "data": {"taskId": "T", "state": "fail"}}


async def test_answers_can_be_set_for_a_task_that_exists_and_for_the_next_one_over_http() -> None:
    async with Simulator() as kie, asking(kie) as ask:
        task = kie.add_task(results=[MediaSpec()] * 2)
        await told(ask, task, 1)
        kie.answer_with(task, LiteralAnswer(FIRST))
        assert (await told(ask, task, 1))[0][1] is None
        kie.orders.append({"results": [MediaSpec()] * 2, "answers": [LiteralAnswer(SECOND)]})
        made = (await ask.post("/api/v1/jobs/createTask", {"model": "m", "input": {}}))[1]["data"]["taskId"]
        assert (await told(ask, made, 1))[0] == kie.addresses(kie.tasks[made])


async def test_the_market_sends_its_literal_answer_as_callback() -> None:
    async with Simulator() as kie, ear() as listening:
        kie.add_task(
            results=[MediaSpec()] * 2, callback_url=listening.url, answers=[LiteralAnswer(FIRST), LiteralAnswer(SECOND)]
        )
        await until(lambda: listening.heard, what="the callback")
        assert json.loads(listening.heard[0][1]["data"]["resultJson"])["resultUrls"][1] is None


def test_a_place_for_a_file_is_filled_only_where_it_stands_alone() -> None:
    record = {"a": "file:0", "b": "profile:0", "c": "https://h/file:0", "d": "file:0/x", "e": 'x "file:0"'}
    filled = json.loads(LiteralAnswer(record).body("T", ["http://h/0"]))["data"]
    assert filled == {**record, "a": "http://h/0", "e": 'x "http://h/0"'}


def test_an_answer_that_names_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="file:1"):
        LiteralAnswer(SECOND).body("T", ["http://h/0"])
    with pytest.raises(ValueError, match="at least one"):
        Simulator().answer_with(Simulator().add_task(task_id="T"))


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("late.hole@75", [("late.hole", 9, 75.0)]),
        ("create.body_402*2, callback.lost", [("create.body_402", 2, 60.0), ("callback.lost", 9, 60.0)]),
        ("late.growing*1@2.5,", [("late.growing", 1, 2.5)]),
        ("", []),
    ],
)
def test_faults_are_read_from_a_text(text: str, faults: Sequence[tuple[str, float, float]]) -> None:
    assert [(fault.name, fault.times, fault.seconds) for fault in read_faults(text, times=9)] == faults


@pytest.mark.parametrize("text", ["rain", "late.rain", "late.hole*", "late.hole@", "late.hole*-1", "2", "-0.1", "nan"])
def test_a_text_that_is_no_fault_and_no_share_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=text.replace("*", r"\*")):
        share_or_faults(text)


def test_a_share_is_a_number_between_0_and_1() -> None:
    assert share_or_faults("0.25") == (0.25, [])
    assert share_or_faults("1") == (1.0, [])
