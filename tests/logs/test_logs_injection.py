"""Whatever others write into a value, an error or a name stays inside its own line of the log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.logs import setup

FORGED = '\n{"event": "generation.delivered", "level": "info"}\r\x1b[2J\x9b31m\u2028\x00'


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def written(form: Literal["json", "console"], text: str) -> str:
    """One event with this text as a value, inside values, and in the error that it tells of."""
    stream = io.StringIO()
    setup(form=form, stream=stream)
    try:
        raise ValueError(text)  # noqa: TRY301 - the log tells of an error only while it is handled
    except ValueError:
        structlog.get_logger().exception("visit.broke", reason=text, several=[text, {text: text}])
    return stream.getvalue()


@given(st.text())
@example(FORGED)
def test_an_event_is_one_line_of_json_whatever_is_in_it(text: str) -> None:
    lines = written("json", text)
    assert lines.splitlines() == [lines.removesuffix("\n")]
    assert json.loads(lines)["event"] == "visit.broke"


@given(st.text())
@example(FORGED)
def test_on_a_terminal_nothing_begins_a_line_or_moves_the_cursor_but_we(text: str) -> None:
    first, *more = written("console", text).removesuffix("\n").split("\n")
    assert "visit.broke" in first
    assert all(line.startswith("  ") for line in more)
    assert all(letter.isprintable() for line in (first, *more) for letter in line)
