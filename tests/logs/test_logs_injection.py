"""Foreign text in a value, an error or a name stays inside its own log line."""

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
    """Log one event with this text as a value, inside values, and in its error."""
    stream = io.StringIO()
    setup(form=form, stream=stream)
    try:
        raise ValueError(text)  # noqa: TRY301 - the log tells of an error only while it is handled
    except ValueError:
        structlog.get_logger().exception("visit.broke", reason=text, several=[text, {text: text}])
    return stream.getvalue()


@given(st.text())
@example(FORGED)
def test_an_event_with_any_text_is_one_line_of_json(text: str) -> None:
    lines = written("json", text)
    assert lines.splitlines() == [lines.removesuffix("\n")]
    assert json.loads(lines)["event"] == "visit.broke"


@given(st.text())
@example(FORGED)
def test_on_a_terminal_foreign_text_begins_no_line_and_moves_no_cursor(text: str) -> None:
    first, *more = written("console", text).removesuffix("\n").split("\n")
    assert "visit.broke" in first
    assert all(line.startswith("  ") for line in more)
    assert all(letter.isprintable() for line in (first, *more) for letter in line)
