"""Wherever KIE writes an address of a result it is found, what is no result never is, and holes that fill complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.domain.model import Finish, Row
from reconciler.domain.observations import Observation, Ready, Stored, Unreadable
from reconciler.kie.dialects import by_name
from reconciler.kie.dialects.dialect import Dialect
from tests.domain.worlds import NO_JITTER, NOW, World, asset, row_after_write, row_in_flight, visit

Json = Any


@dataclass(frozen=True)
class Family:
    """A family: its success without results, the fields that hold output, and the place of its results.

    `film` is true where an image beside the results is a poster. `single` places hold one address, not a list.
    """

    name: str
    success: dict[str, Json]
    place: tuple[str, ...]
    film: bool = True
    entry: str | None = None
    single: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def dialect(self) -> Dialect:
        found = by_name(self.name)
        assert found is not None
        return found

    def record(self, *, output: Json = None, top: dict[str, Json] | None = None) -> dict[str, Json]:
        """Return a success whose field of output holds `output`, with further fields beside it."""
        value = json.dumps(output) if self.name == "market" else output
        return {"taskId": "T", **(top or {}), **self.success, self.place[0]: value}

    def listed(self, entries: Sequence[Json], beside: dict[str, Json] | None = None) -> Json:
        """Return the field of output with these results in their place; `beside` are fields next to it."""
        value: Json = entries[0] if self.single and entries else list(entries)
        *inner, last = self.place[1:]
        output: Json = {**(beside or {}), last: value}
        for name in reversed(inner):
            output = {name: output}
        return output

    def written(self, address: str | None, **fields: Json) -> Json:
        """Return one entry of the list as this family writes it."""
        return {self.entry: address, **fields} if self.entry else address


FLAG = {"successFlag": 1}
STATE = {"successFlag": "SUCCESS"}
FAMILIES = (
    Family("market", {"state": "success"}, ("resultJson", "resultUrls"), film=False),
    Family("runway", {"state": "success"}, ("videoInfo", "videoUrl"), single=True),
    Family("veo", FLAG, ("response", "resultUrls")),
    Family("luma", FLAG, ("response", "resultUrls")),
    Family("aleph", FLAG, ("response", "resultVideoUrl"), single=True),
    Family("gpt4o", FLAG, ("response", "resultUrls"), film=False),
    Family("flux_kontext", FLAG, ("response", "resultImageUrl"), film=False, single=True),
    Family("midjourney", FLAG, ("resultInfoJson", "resultUrls"), film=False, entry="resultUrl"),
    Family("suno", {"status": "SUCCESS"}, ("response", "sunoData"), entry="audioUrl"),
    Family("suno_wav", STATE, ("response", "audioWavUrl"), single=True),
    Family("suno_stems", STATE, ("response", "originData"), entry="audio_url"),
    Family("suno_video", STATE, ("response", "videoUrl"), single=True),
    Family("suno_cover", FLAG, ("response", "images"), film=False),
    Family("suno_lyrics", {"status": "SUCCESS"}, ("response", "data")),
    Family("suno_midi", FLAG, ("midiData", "instruments")),
    Family("suno_voice", {"status": "success"}, ("output", "list")),
)
MEDIA = tuple(family for family in FAMILIES if family.name not in {"suno_lyrics", "suno_midi", "suno_voice"})
LISTS = tuple(family for family in MEDIA if not family.single)

# Each property runs once for each family: together they draw about twice as many examples as any other.
IN_EACH_FAMILY = settings(max_examples=max(settings().max_examples // 8, 10))

ADDRESS = "https://tempfile.aiquickdraw.com/r/result-{}.bin"
DECOY = "https://tempfile.aiquickdraw.com/r/decoy-{}.bin"

WORDS = ("clip", "Item", "media", "File", "asset", "final", "Link", "out", "take", "render", "hd", "4k", "Url", "_url")
NAMES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("".join) | st.text("bcdgklqxz_Q7", min_size=1)
"""Names of fields that say nothing about a use other than a result."""

NO_RESULTS = (
    "inputUrl", "input_urls", "inputImage", "originUrl", "originUrls", "originImageUrl", "origin_image_url",
    "posterUrl", "poster", "video_poster_url", "streamAudioUrl", "stream_audio_url", "sourceStreamAudioUrl",
    "streamUrl", "param", "params", "inputParam",
)  # fmt: skip
"""Names of fields with inputs, origins, posters, streams and parameters of the request."""

REQUESTS = ("param", "paramJson", "generateParam", "promptJson")
PICTURES_OF_FILMS = ("imageUrl", "imageUrls", "image_url", "resultImageUrl")


def wrapped(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """Nest a value in objects, lists and texts of JSON, also beside values that mean nothing."""
    return (
        st.builds(lambda name, value: {name: value}, NAMES, inner)
        | st.builds(lambda name, value, n: {"id": f"id-{n}", "duration": n, name: value}, NAMES, inner, st.integers())
        | inner.map(lambda value: [value])
        | inner.map(lambda value: [None, value])
        | inner.map(json.dumps)
    )


def hidden(address: str) -> st.SearchStrategy[Json]:
    return st.recursive(st.just(address), wrapped, max_leaves=4)


def addresses(observation: Observation) -> set[str]:
    """Return every address that an observation takes for one of a result."""
    results = observation.results if isinstance(observation, Ready) else ()
    return {address for result in results for address in result.addresses}


@pytest.mark.sample(4)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
@IN_EACH_FAMILY
@given(data=st.data())
def test_a_success_that_holds_an_address_anywhere_is_never_one_without_output(family: Family, data: st.DataObject):
    value = data.draw(hidden(ADDRESS.format(0)))
    name = data.draw(NAMES)
    known: Json = data.draw(st.sampled_from([None, {}, family.listed([]), family.listed([family.written(None)])]))
    record = data.draw(
        st.sampled_from(
            [
                family.record(output={**(known or {}), name: value}),
                family.record(output=known, top={name: value}),
                family.record(output=value),
                family.record(output=family.listed([value])),
            ]
        )
    )

    seen = family.dialect.read(record)

    assert isinstance(seen, Ready | Unreadable), seen
    assert isinstance(seen, Unreadable) or seen.available, f"an empty success: {record}"


def decoys(family: Family) -> st.SearchStrategy[dict[str, Json]]:
    """Return fields that hold addresses which are no results."""
    names = NO_RESULTS + (PICTURES_OF_FILMS if family.film else ())
    values = st.recursive(
        st.sampled_from([DECOY.format(n) for n in range(3)]),
        lambda inner: (
            inner.map(lambda value: [value])
            | inner.map(json.dumps)
            | st.builds(lambda name, value: {name: value}, st.sampled_from(["url", "resultUrls", "data"]), inner)
        ),
        max_leaves=3,
    )
    return st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=4)


@pytest.mark.sample(4)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
@IN_EACH_FAMILY
@given(data=st.data())
def test_an_address_of_an_input_a_poster_a_stream_an_origin_or_the_request_is_no_result(
    family: Family, data: st.DataObject
):
    none = decoys(family)
    real = [ADDRESS.format(n) for n in range(data.draw(st.integers(0, 3)))]
    entries = [family.written(one, **(data.draw(none) if family.entry else {})) for one in real]
    output = {**family.listed(entries), **data.draw(none)}
    if data.draw(st.booleans()):
        output = {**data.draw(none), "clips": [{"fileUrl": one, **data.draw(none)} for one in real]}
    top = {**data.draw(none), data.draw(st.sampled_from(REQUESTS)): json.dumps({"image_url": DECOY.format(9)})}

    seen = family.dialect.read(family.record(output=output, top=top))

    assert addresses(seen) <= set(real), "what is no result was taken for one"
    if real and family in MEDIA:
        assert addresses(seen) or isinstance(seen, Unreadable)


@pytest.mark.sample(4)
@pytest.mark.parametrize("family", MEDIA, ids=str)
@IN_EACH_FAMILY
@given(data=st.data())
def test_real_results_are_found_whatever_stands_beside_them(family: Family, data: st.DataObject):
    real = [ADDRESS.format(n) for n in range(1 if family.single else data.draw(st.integers(1, 4)))]
    entries = [family.written(one, **(data.draw(decoys(family)) if family.entry else {})) for one in real]
    record = family.record(
        output={**data.draw(decoys(family)), **family.listed(entries)}, top=data.draw(decoys(family))
    )

    seen = family.dialect.read(record)

    assert isinstance(seen, Ready)
    assert [result.addresses for result in seen.results] == [(one,) for one in real]


@st.composite
def fillings(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """Return a count, and the numbers that each answer shows: more from answer to answer, all in the last one."""
    count = draw(st.integers(1, 6))
    order = draw(st.permutations(range(count)))
    cuts = sorted(draw(st.sets(st.integers(0, count), max_size=4)))
    shown = [sorted(order[:cut]) for cut in cuts if cut < count]
    return count, [*shown, list(range(count))]


def stored_of(row: Row) -> Stored:
    """Deliver everything that can be."""
    done = {one.n for one in (*row.stored, *row.unstored)}
    return Stored(tuple(asset(n) for n in sorted(done)))


def visited(row: Row, dialect: Dialect, record: dict[str, Json], now: datetime) -> tuple[Row, bool, datetime]:
    """Visit a row while KIE answers with this record; return it, whether it is finished, and when it is due."""
    *_, (row, _, decision) = visit(row, World(lambda _: dialect.read(record), stored_of), now, NO_JITTER)
    written, due = row_after_write(row, decision)
    return written, isinstance(decision, Finish), due or now


@pytest.mark.sample(4)
@pytest.mark.parametrize("family", LISTS, ids=str)
@IN_EACH_FAMILY
@given(filling=fillings(), named=st.booleans(), shrinks=st.booleans())
def test_from_any_announced_count_with_holes_that_fill_the_end_is_that_count(
    family: Family, filling: tuple[int, list[list[int]]], named: bool, shrinks: bool
):
    count, answers = filling
    row, now = row_in_flight(created_at=NOW - timedelta(minutes=1)), NOW
    for index, shown in enumerate(answers):
        entries = [
            family.written(ADDRESS.format(n) if n in shown else None, **({"id": f"id-{n}"} if named else {}))
            for n in range(count)
            # What was announced once may be left out for a while where each result has a name.
            if not (shrinks and named and family.entry and 0 < index < len(answers) - 1 and n not in shown)
        ]
        row, finished, now = visited(row, family.dialect, family.record(output=family.listed(entries)), now)
        assert finished is (index == len(answers) - 1), f"after answer {index} of {len(answers)}: {row.reason}"

    assert [result.addresses for result in row.stored] == [(ADDRESS.format(n),) for n in range(count)]
    assert len({result.n for result in row.stored}) == row.shown == count
    assert not row.missing


@given(order=st.permutations(range(4)), first=st.sets(st.integers(0, 3), max_size=3))
def test_results_with_names_stand_in_the_order_of_kies_last_answer(order: list[int], first: set[int]):
    music = next(family for family in FAMILIES if family.name == "suno")
    early = [{"id": f"id-{n}", "audioUrl": ADDRESS.format(n) if n in first else ""} for n in range(4)]
    late = [{"id": f"id-{n}", "audioUrl": ADDRESS.format(n)} for n in order]
    row, finished, now = visited(row_in_flight(), music.dialect, music.record(output=music.listed(early)), NOW)
    assert not finished
    row, finished, _ = visited(row, music.dialect, music.record(output=music.listed(late)), now)

    assert finished
    assert [result.key for result in row.stored] == [f"id-{n}" for n in order]
    assert {result.key: result.n for result in row.results} == {f"id-{n}": n for n in range(4)}
