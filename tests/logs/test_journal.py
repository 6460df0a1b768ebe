"""Under systemd every line has one priority prefix for the journal; elsewhere no line has one."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

import pytest
import structlog

from reconciler.logs import setup


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[TextIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    with (tmp_path / "journal").open("w+") as opened:
        yield opened
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def name(stream: TextIO) -> str:
    """Return the JOURNAL_STREAM that systemd sets for this stream."""
    status = os.fstat(stream.fileno())
    return f"{status.st_dev}:{status.st_ino}"


def lines(stream: TextIO) -> list[str]:
    stream.seek(0)
    return stream.read().splitlines()


def begun(stream: TextIO, form: Literal["json", "console"]) -> structlog.typing.FilteringBoundLogger:
    setup(level="debug", form=form, stream=stream)
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_begins_with_the_priority_of_its_level(
    stream: TextIO, monkeypatch: pytest.MonkeyPatch, form: Literal["json", "console"]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", name(stream))
    log = begun(stream, form)
    for level in ("critical", "error", "warning", "info", "debug"):
        getattr(log, level)("daemon.started")
    written = lines(stream)
    assert [line[:3] for line in written] == ["<2>", "<3>", "<4>", "<6>", "<7>"]
    assert not any(re.match(r"<\d>", line[3:]) for line in written)
    if form == "json":
        assert json.loads(written[0][3:])["event"] == "daemon.started"


def test_every_line_of_a_traceback_has_its_priority_once(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", name(stream))
    log = begun(stream, "console")
    try:
        raise ValueError("first\n<0>second")  # noqa: TRY301 - the log tells of an error only while it is handled
    except ValueError:
        log.exception("visit.broke")
    log.info("visit.ended")
    *traceback, last = lines(stream)
    assert len(traceback) > 4
    assert all(line.startswith("<3>") and not line.startswith("<3><") for line in traceback)
    assert last.startswith("<6>")


def test_messages_of_libraries_have_a_priority_too(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", name(stream))
    begun(stream, "json")
    logging.getLogger("somebody").error("odd")
    assert [line[:3] for line in lines(stream)] == ["<3>"]


@pytest.mark.parametrize("told", [None, "", "1:2", "nonsense", ":"])
def test_without_the_journal_no_line_has_a_prefix(
    stream: TextIO, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if told is not None:
        monkeypatch.setenv("JOURNAL_STREAM", told)
    begun(stream, "json").info("daemon.started")
    assert [line[:1] for line in lines(stream)] == ["{"]


def test_a_process_that_inherited_journal_stream_but_writes_elsewhere_has_no_prefix(
    stream: TextIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "elsewhere").open("w") as other:
        monkeypatch.setenv("JOURNAL_STREAM", name(other))
        begun(stream, "json").info("daemon.started")
    assert [line[:1] for line in lines(stream)] == ["{"]
