"""docs/OPERATIONS.md lists every event of the log with its levels and fields, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.logs.sampling import ALWAYS
from tests.contract.events import LEVELS, Source, Written, written
from tests.contract.test_operations_page import rows, section, words

TABLE = [row for row in rows(section("Lines of the log")) if len(row) == 4]
FIELDS = [row for row in rows(section("Lines of the log")) if len(row) == 2]
LIBRARIES = "library.logged"
"""What libraries say comes at the level at which they say it."""


@pytest.fixture(scope="module")
def events() -> dict[str, Written]:
    """Every event of the code; finding them takes seconds, and only who asks is to wait."""
    return written()


def levels(row: tuple[str, ...]) -> set[str]:
    return set(row[1].removesuffix(" *").split(", "))


def test_every_event_is_listed_with_its_fields_and_no_other_is(events: dict[str, Written]) -> None:
    assert {words(row[0])[0]: set(words(row[2])) for row in TABLE} == {
        name: event.fields for name, event in events.items()
    }


def test_every_event_is_told_with_the_levels_at_which_it_comes(events: dict[str, Written]) -> None:
    told = {words(row[0])[0]: levels(row) for row in TABLE}
    assert told.pop(LIBRARIES) == {"any"}
    assert told == {name: event.levels for name, event in events.items() if name != LIBRARIES}


def test_each_is_told_once_in_order_and_says_something() -> None:
    for table in (TABLE, FIELDS):
        names = [words(row[0])[0] for row in table]
        assert names == sorted(set(names))
        assert all(row[-1] for row in table)


def test_every_event_is_a_noun_and_a_verb(events: dict[str, Written]) -> None:
    odd = {name: event.places for name, event in events.items() if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)}
    assert not odd
    assert len(events) > 40


def test_loggers_are_called_by_their_levels_only(events: dict[str, Written]) -> None:
    others = {name: event.places for name, event in events.items() if event.levels - set(LEVELS.values())}
    assert list(others) == [LIBRARIES]


def test_the_fields_are_a_closed_set_each_with_its_meaning(events: dict[str, Written]) -> None:
    assert {words(row[0])[0] for row in FIELDS} == {name for event in events.values() for name in event.fields}


def test_a_field_of_every_line_is_never_given_by_one(events: dict[str, Written]) -> None:
    assert not {name for event in events.values() for name in event.fields} & {
        "timestamp",
        "level",
        "event",
        "instance",
    }


def test_the_warnings_that_are_never_left_out_have_a_star(events: dict[str, Written]) -> None:
    starred = {words(row[0])[0] for row in TABLE if row[1].endswith(" *")}
    # It is what tells of the others.
    assert starred == ALWAYS - {"lines.suppressed"}
    assert set(events) >= ALWAYS


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('log.info("a.b", x=1)', ("a.b", "info", {"x"})),
        ('log.exception("a.b")', ("a.b", "error", set())),
        ('log.bind(x=1).bind(y=2).warning("a.b", z=3)', ("a.b", "warning", {"x", "y", "z"})),
        ('bound = log.bind(x=1)\nbound.error("a.b")', ("a.b", "error", {"x"})),
        ('def make():\n    return log.bind(x=1)\ndef use():\n    make().bind(y=1).info("a.b")',
         ("a.b", "info", {"x", "y"})),
        ('def use(bound: FilteringBoundLogger):\n    bound.info("a.b", x=1)', ("a.b", "info", {"x"})),
        ('def use():\n    write = log.info\n    write("a.b", x=1)', ("a.b", "info", {"x"})),
        ('more = {"x": 1}\nlog.info("a.b", **more)', ("a.b", "info", {"x"})),
        ('log.info(name, x=1)', ("name", "info", {"x"})),
    ],
)  # fmt: skip
def test_every_way_to_write_a_line_is_seen(
    source: str, found: tuple[str, str, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.contract.events.PACKAGE", tmp_path)
    path = tmp_path / "one.py"
    path.write_text(source)
    assert [one[:3] for one in Source(path).events()] == [found]
