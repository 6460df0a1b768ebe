"""Each answer of KIE ends with every result that it owes, in KIE's order and byte for byte, or with a reason."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from reconciler.bootstrap import Parts
from reconciler.domain.model import OPEN
from reconciler.simulator import LiteralAnswer, MediaSpec
from tests.worker.rig import Rig
from tests.worker.visit.answer_cases import CASES, FILM, PNG, SONG, Case

FIELD_CASES = Path(__file__).resolve().parents[4] / "shared" / "field-cases"
MOST_VISITS = 12
"""A task may be asked about at the page of every dialect."""


async def ordered(rig: Rig, case: Case) -> str:
    """A task that answers as in this case, and its row; the row's id."""
    task = rig.kie.add_task(family=case.family, results=case.files, answers=case.answers, covers=())
    return await rig.insert(task, model_key=case.model, kind=None)


async def answered(rig: Rig, parts: Parts, generation_id: str, count: int) -> None:
    """Visit a row until KIE has given so many answers about its task."""
    task = rig.kie.tasks[(await rig.books.generation(generation_id))["task_id"]]
    for _ in range(MOST_VISITS):
        if task.polls >= count:
            return
        await rig.visit(parts, generation_id)
    raise AssertionError(f"KIE has given {task.polls} answers after {MOST_VISITS} visits")


async def in_flight(rig: Rig, generation_id: str) -> bool:
    generation = await rig.books.generation(generation_id)
    return generation["status"] in OPEN and generation["asset_url"] is None


async def shown(rig: Rig, generation_id: str) -> list[Any]:
    """What the row shows: the number of the task's file, else the document, else the text."""
    generation = await rig.books.generation(generation_id)
    task = rig.kie.tasks[generation["task_id"]]
    numbers = {rig.kie.sha256(task.id, n): n for n in range(len(task.files))}
    addresses = json.loads(generation["asset_urls"])
    assert generation["asset_url"] == addresses[0]
    assert len(rig.names()) == len(set(addresses)) == len(addresses)
    digests = [hashlib.sha256(rig.stored(address)).hexdigest() for address in addresses]
    assert sorted(await rig.receipts(generation_id)) == sorted(digests)
    return [
        numbers[digest] if digest in numbers else document(address, rig.stored(address).decode())
        for address, digest in zip(addresses, digests, strict=True)
    ]


def document(address: str, text: str) -> object:
    return json.loads(text) if address.endswith(".json") else text


def filled(rig: Rig, task: str, owed: object) -> Any:
    """What is owed, with the addresses of the task in its documents."""
    addresses = rig.kie.addresses(rig.kie.tasks[task])
    text = re.sub(r"file:(\d+)", lambda place: addresses[int(place[1])], json.dumps(owed))
    return json.loads(text)


async def ends_as_owed(rig: Rig, generation_id: str, case: Case) -> None:
    """Compare the row after the last answer with what the case owes."""
    generation, events = await rig.books.generation(generation_id), await rig.books.events(generation_id)
    if case.finding is not None:
        work = await rig.books.work(generation_id)
        assert work is not None
        assert (await in_flight(rig, generation_id), work["finding"], events) == (True, case.finding, [])
        assert work["due_in"] <= 120
        assert rig.names() == []
    elif case.error is not None:
        assert (generation["status"], generation["error"], events) == ("failed", case.error, ["failed"])
        assert rig.names() == []
    else:
        assert (generation["status"], events) == ("success", ["succeeded"])
        assert await shown(rig, generation_id) == filled(rig, generation["task_id"], case.owed)
        payload = json.loads(await rig.pool.fetchval("SELECT payload FROM reconciler.events"))
        assert payload.get("contradiction") == case.contradiction
        assert "missing" not in payload


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_an_answer_ends_with_what_it_owes(rig: Rig, parts: Parts, case: Case) -> None:
    generation_id = await ordered(rig, case)
    for count in range(1, len(case.answers)):
        await answered(rig, parts, generation_id, count)
        assert await in_flight(rig, generation_id), f"it ended by answer {count}, which was not the last"
    await answered(rig, parts, generation_id, len(case.answers))
    await ends_as_owed(rig, generation_id, case)


def test_the_cases_are_of_every_family() -> None:
    assert len(CASES) == len({str(case) for case in CASES})
    assert {case.family for case in CASES} == {
        "market", "veo", "suno", "suno_wav", "suno_stems", "suno_video", "suno_cover", "suno_lyrics", "suno_midi",
        "suno_voice", "runway", "aleph", "gpt4o", "flux_kontext", "midjourney", "luma",
    }  # fmt: skip


async def test_the_1080p_version_of_a_film_is_waited_for(rig: Rig, parts: Parts) -> None:
    """KIE has no task for it, so no record to write down in the table: 422 until the film is there."""
    film = rig.kie.add_task(family="veo", results=[FILM], covers=[FILM], hd_after=90)
    generation_id = await rig.insert(f"{film}~1080p-0", model_key="veo3", kind="video")
    for _ in range(3):
        await rig.visit(parts, generation_id)
        assert await in_flight(rig, generation_id)
    rig.kie.skip(90)
    await rig.visit(parts, generation_id)
    row = await rig.books.generation(generation_id)
    assert (row["status"], json.loads(row["asset_urls"])) == ("success", [row["asset_url"]])
    assert hashlib.sha256(rig.stored(row["asset_url"])).hexdigest() == rig.kie.sha256(film, 1)


FIELD_OWED: dict[str, tuple[int, ...]] = {
    "suno-second-track-blank": (0, 1),
    "market-list-with-hole": (0, 2, 1),
    "suno-stems-only-in-origin-data": (0,),
    "market-watermarked-only": (0,),
    "suno-empty-stream-final-source": (1,),
    "market-65-results": tuple(range(65)),
}
"""The results of each file in order, by where their addresses stand in it: the first one is 0."""


def field_case(path: Path) -> Case:
    """Return the case of a file, with each address in it replaced by a file of the simulator."""
    text = path.read_text()
    addresses = list(dict.fromkeys(re.findall(r"https?://[^\"\\\s]+", text)))
    for n, address in sorted(enumerate(addresses), key=lambda one: -len(one[1])):
        text = text.replace(address, f"file:{n}")
    found = json.loads(text.replace('"T"', '"task:id"'))
    answers = tuple(LiteralAnswer.of(answer) for answer in found["answers"])
    record = found["answers"][-1]["data"]
    model = record.get("model") or found["family"].replace("_", "-")
    case = Case(path.stem, answers, FIELD_OWED.get(path.stem, ()), tuple(map(field_file, addresses)), found["family"])
    match path.stem:
        case "market-words":
            words = json.loads(record["resultJson"])["resultObject"]
            return Case(case.name, answers, (words, words["text"]), (), case.family, model)
        case "market-fail-in-422":
            said = f"{record['failMsg']} ({record['failCode']})"
            return Case(case.name, answers, (), (), case.family, model, error=said)
    return Case(case.name, answers, case.owed, case.files, case.family, model)


def field_file(address: str) -> MediaSpec:
    """Return a file of the type that an address names; an address of a stream, which names none, gives no byte."""
    return {"png": PNG, "mp3": SONG, "mp4": FILM}.get(address.rpartition(".")[2], MediaSpec("audio", "mp3", 0))


NO_FIELD_CASES = pytest.param(FIELD_CASES, marks=pytest.mark.skip(reason=f"no field cases in {FIELD_CASES}"))


@pytest.mark.parametrize("path", sorted(FIELD_CASES.glob("*.json")) or [NO_FIELD_CASES], ids=lambda path: path.stem)
async def test_a_case_from_the_field_ends_with_what_it_owes(rig: Rig, parts: Parts, path: Path) -> None:
    case = field_case(path)
    if case.owed or case.error:
        await test_an_answer_ends_with_what_it_owes(rig, parts, case)
        return
    # A new file that this test does not know yet: whatever it owes, the row is not silent.
    generation_id = await ordered(rig, case)
    await answered(rig, parts, generation_id, len(case.answers))
    work = await rig.books.work(generation_id)
    assert not await in_flight(rig, generation_id) or (work is not None and work["finding"])
