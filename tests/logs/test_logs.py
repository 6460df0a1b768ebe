"""Log lines: events as JSON or for a terminal, without any secret."""

from __future__ import annotations

import errno
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given as hypothetically
from hypothesis import strategies as st

from reconciler.logs import setup
from reconciler.logs.redaction import REDACTED, Redaction

SECRET = "kie-0123456789"
SIGNED = "https://files.example/a/b.png?X-Amz-Signature=deadbeef&Expires=1"


class Log:
    """A log after setup, and its output."""

    def __init__(self, **options: Any) -> None:
        self.stream = io.StringIO()
        setup(**{"secrets": [SECRET], "stream": self.stream, **options})

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_an_event_is_one_line_of_json_that_begins_with_timestamp_level_and_event() -> None:
    log = Log()
    structlog.contextvars.bind_contextvars(instance="i-1")
    before = datetime.now(UTC)
    structlog.get_logger().warning("generation.stuck", generation_id="g", note="two\nlines")
    assert log.text.count("\n") == 1
    [event] = log.events
    assert list(event) == ["timestamp", "level", "event", "generation_id", "note", "instance"]
    assert (event["level"], event["event"], event["instance"]) == (
        "warning", "generation.stuck", "i-1",
    )  # fmt: skip
    assert event["timestamp"].endswith("Z")
    assert before <= datetime.fromisoformat(event["timestamp"]) <= datetime.now(UTC)


def test_context_variables_are_on_every_line() -> None:
    log = Log()
    with structlog.contextvars.bound_contextvars(generation_id="g", task_id="t"):
        structlog.get_logger().info("visit.ended")
    assert (log.events[0]["generation_id"], log.events[0]["task_id"]) == ("g", "t")


def test_lines_below_the_level_are_not_written() -> None:
    log = Log(level="warning")
    structlog.get_logger().info("sweep.ended")
    logging.getLogger("somebody").info("chatter")
    assert log.text == ""


def test_the_console_form_is_chosen_or_follows_from_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    chosen = Log(form="console")
    structlog.get_logger().info("daemon.started", port=9464)
    assert "daemon.started" in chosen.text
    assert "port=9464" in chosen.text
    assert not chosen.text.startswith("{")
    on_terminal = Log(stream=(stream := Terminal()))
    structlog.get_logger().info("daemon.started")
    assert stream.getvalue()[:1] not in ("", "{")
    Log(stream=(stream := Terminal()), form="json")
    structlog.get_logger().info("daemon.started")
    assert json.loads(stream.getvalue())["event"] == "daemon.started"
    assert on_terminal.text == ""


def test_foreign_text_cannot_control_the_terminal() -> None:
    log = Log(form="console")
    structlog.get_logger().info("generation.refused", reason="\x1b[2Jgone")
    assert "\x1b" not in log.text


def test_a_logger_created_before_setup_follows_it_and_can_be_captured() -> None:
    early = structlog.get_logger()
    Log()
    early.info("first.used")
    log = Log()
    early.info("second.used")
    assert [event["event"] for event in log.events] == ["second.used"]
    with structlog.testing.capture_logs() as captured:
        early.info("third.used")
    assert [event["event"] for event in captured] == ["third.used"]
    assert "third.used" not in log.text


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_known_secret_is_nowhere_in_a_line(form: str) -> None:
    log = Log(form=form)
    structlog.get_logger().error(
        f"odd.{SECRET}",
        text=f"the key {SECRET} was refused",
        nested={"list": [SECRET, (SECRET,), {SECRET: f"x{SECRET}x"}], "path": Path("/") / SECRET},
        address=httpx.URL(f"https://host.example/{SECRET}"),
        raw=SECRET.encode(),
        error=ValueError(f"bad {SECRET}"),
    )
    assert SECRET not in log.text
    assert REDACTED in log.text


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_in_an_exception_or_its_cause_is_removed(form: str, recwarn: pytest.WarningsRecorder) -> None:
    log = Log(form=form)

    def fail() -> None:
        held, empty = SECRET, dict[str, str]()
        try:
            empty[held]
        except KeyError as cause:
            raise RuntimeError(f"could not open {SIGNED}") from cause

    try:
        fail()
    except RuntimeError:
        structlog.get_logger().exception("visit.crashed")
    assert "RuntimeError" in log.text
    assert "in fail" in log.text
    assert not recwarn.list
    assert SECRET not in log.text
    assert "deadbeef" not in log.text


def test_a_percent_encoded_secret_is_removed_too() -> None:
    redaction = Redaction(["pass@word/1"])
    assert "pass%40word%2F1" not in redaction.text("at x://u/pass%40word%2F1")


def test_of_two_secrets_the_longer_is_removed_whole() -> None:
    assert Redaction(["abcd", "abcdefgh"]).text("<abcdefgh>") == f"<{REDACTED}>"


@pytest.mark.parametrize(
    "name",
    ["Authorization", "apikey", "api_key", "X-Api-Key", "api_token", "Set-Cookie", "client_secret",
     "password", "x-webhook-signature", "hmac_key", "dsn"],
)  # fmt: skip
def test_a_field_with_a_secret_name_is_removed_in_any_form(name: str) -> None:
    log = Log()
    structlog.get_logger().info("request.sent", **{name: "plain"}, headers={name: ["plain"]})
    assert log.events[0][name] == REDACTED
    assert log.events[0]["headers"] == {name: REDACTED}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (SIGNED, f"https://files.example/a/b.png?{REDACTED}"),
        (f"get '{SIGNED}' failed", f"get 'https://files.example/a/b.png?{REDACTED}' failed"),
        ("https://h.example/a#access=x1", f"https://h.example/a?{REDACTED}"),
        ("postgresql://u:pw1@h:1/d", f"postgresql://{REDACTED}@h:1/d"),
        ("sent Bearer abc.def-1, refused", f"sent Bearer {REDACTED}, refused"),
        ("got eyJhbGciOi.eyJzdWIi.c2ln here", f"got {REDACTED} here"),
        ("/api/kie/callback?secret=s3&task=1", f"/api/kie/callback?secret={REDACTED}&task=1"),
        ("{'api_key': 'k1', 'n': 1}", f"{{'api_key': '{REDACTED}', 'n': 1}}"),
    ],
)
def test_text_in_the_form_of_a_secret_is_removed_and_the_rest_stays(text: str, left: str) -> None:
    assert Redaction().text(text) == left


@pytest.mark.parametrize(
    "text",
    ["token expired: signature mismatch", "https://files.example/a/b.png", "a=1&b=2", "no secret"],
)
def test_text_without_a_secret_does_not_change(text: str) -> None:
    assert Redaction([SECRET]).text(text) == text


def test_values_of_other_types_become_json_types() -> None:
    log = Log()
    structlog.get_logger().info(
        "visit.ended", took=timedelta(seconds=1.5), at=datetime(2026, 1, 2, tzinfo=UTC),
        ok=True, n=None, seen={1}, tokens=3,
    )  # fmt: skip
    event = log.events[0]
    assert (event["took"], event["at"]) == (1.5, "2026-01-02T00:00:00+00:00")
    assert (event["ok"], event["n"], event["seen"], event["tokens"]) == (True, None, [1], 3)


def test_a_value_that_contains_itself_does_not_stop_the_log() -> None:
    log = Log()
    endless: dict[str, Any] = {"authorization": "plain"}
    endless["again"] = endless
    structlog.get_logger().info("visit.ended", endless=endless)
    assert "plain" not in log.text
    assert log.events[0]["event"] == "visit.ended"


def test_messages_of_libraries_take_the_same_path() -> None:
    log = Log()
    structlog.contextvars.bind_contextvars(instance="i-1")
    logging.getLogger("somebody").warning("GET %s with %s", SIGNED, SECRET)
    logging.getLogger("httpx").info("HTTP Request: GET %s", SIGNED)
    [event] = log.events
    assert (event["event"], event["logger"], event["level"]) == (
        "library.logged", "somebody", "warning",
    )  # fmt: skip
    assert event["message"] == f"GET https://files.example/a/b.png?{REDACTED} with {REDACTED}"
    assert event["instance"] == "i-1"


def test_a_malformed_message_of_a_library_is_logged_as_far_as_possible() -> None:
    log = Log()
    logging.getLogger("somebody").error("%d", "no number")
    logging.getLogger("somebody").log(35, "between the levels")
    assert [event["message"] for event in log.events] == ["%d", "between the levels"]


@pytest.mark.parametrize("trouble", [OSError(errno.EPIPE, "gone"), ValueError("closed"), OSError(errno.ENOSPC, "full")])
def test_a_log_that_cannot_be_written_stops_nothing(trouble: Exception) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise trouble

    Log(stream=Broken())
    structlog.get_logger().info("generation.delivered")


@hypothetically(
    before=st.text(max_size=20),
    secret=st.text(min_size=4, max_size=20),
    after=st.text(max_size=20),
)
def test_no_text_around_a_secret_hides_it(before: str, secret: str, after: str) -> None:
    if secret in REDACTED or any(secret in text for text in (before, after)):
        return
    assert secret not in Redaction([secret]).text(f"{before}{secret}{after}").replace(REDACTED, "\0")
