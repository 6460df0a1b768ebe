"""Hostile text in a log line takes linear time and hides no secret."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import structlog

from reconciler.logs import LONGEST_ID, setup
from reconciler.logs.redaction import REDACTED, Redaction

SECRET = "kie-0123456789"

REPEATED = {
    "a scheme of many labels": ("secret ", "a."),
    "a scheme of many labels that is none": ("secret ", "a+"),
    "addresses without a query": ("", "http://"),
    "addresses without a query behind a word": ("", "xhttp://y-"),
    "places to log in without anybody": ("", "a://"),
    "one place to log in without an end": ("a://", "a"),
    "beginnings of a web token": ("", "-eyJaaaaa"),
    "beginnings of a web token with dots": ("", "eyJaaaaa.."),
    "bearers": ("", "bearer "),
    "a bearer of blanks": ("bearer", " "),
    "bearers of blanks": ("", "bearer   "),
    "keys of Supabase": ("", "sb_secret_"),
    "keys of Supabase that are none": ("", "-sb_"),
    "named values": ("", "secret="),
    "named values of nothing": ("", 'secret"  :  '),
    "a name and blanks": ("secret'", " "),
    "half an escape": ("secret", "\\u003"),
}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def seconds(text: str) -> float:
    """Return the processor time of one redaction of this text, the best of several."""
    redaction = Redaction([SECRET])
    taken = []
    for _ in range(5):
        began = time.process_time()
        redaction.text(text)
        taken.append(time.process_time() - began)
    return min(taken)


@pytest.mark.parametrize("what", REPEATED)
def test_redacting_four_times_the_text_takes_about_four_times_as_long(what: str) -> None:
    before, again = REPEATED[what]
    short, long = (before + again * (size // len(again)) for size in (16 << 10, 64 << 10))
    # Below a tenth of a millisecond the clock is not precise enough.
    assert seconds(long) / max(seconds(short), 1e-4) < 8


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"{'a' * 40}://u:pw1@h/x", f"{'a' * 40}://{REDACTED}@h/x"),
        ("two http://a http://b?x=1 there", f"two http://a http://b?{REDACTED} there"),
        ("https://a/x, https://b/y#z", f"https://a/x, https://b/y?{REDACTED}"),
        ("-eyJhbGciOi-eyJhbGciOi.eyJzdWIi.c2ln here", f"-{REDACTED} here"),
        ("eyJhbGciOi and eyJhbGciOi.eyJzdWIi", f"eyJhbGciOi and {REDACTED}"),
    ],
)
def test_text_that_begins_like_a_secret_hides_no_secret_after_it(text: str, left: str) -> None:
    assert Redaction().text(text) == left


CALLBACK = "cbSecret/Zm9v+bar=="
ESCAPED = {
    "percent signs": "cbSecret%2FZm9v%2Bbar%3D%3D",
    "percent signs in small letters": "cbSecret%2fZm9v%2bbar%3d%3d",
    "percent signs of both kinds": "cbSecret%2FZm9v%2bbar%3d%3D",
    "a slash left as it is": "cbSecret/Zm9v%2Bbar==",
    "JSON": json.dumps(CALLBACK),
    "JSON with slashes escaped": r"cbSecret\/Zm9v+bar==",
    "JSON for a page": r"cbSecret\/Zm9v\u002bbar\u003d\u003d",
    "JSON in capitals": r"cbSecret/Zm9v\u002Bbar\u003D\u003D",
}


@pytest.mark.parametrize("how", ESCAPED)
def test_a_known_secret_is_removed_in_every_escaped_form(how: str) -> None:
    assert Redaction([CALLBACK]).text(f"echo <{ESCAPED[how]}>") == f"echo <{ESCAPED[how]}>".replace(
        ESCAPED[how].strip('"'), REDACTED
    )


@pytest.mark.parametrize(
    "secret", ['quo"ted', "back\\slash", "line\nbreak", "Schlüssel", "🔑-of-all", "a&b<c>d", "50%25off"]
)
def test_a_secret_of_any_characters_is_found_as_escaped_in_addresses_and_json(secret: str) -> None:
    redaction = Redaction([secret])
    for written in (
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    ):
        assert redaction.text(f"<{written}>") == f"<{REDACTED}>"


def test_a_named_value_is_removed_if_its_equals_sign_is_escaped() -> None:
    assert Redaction().text(r'"cb?secret\u003dabc\u0026n=1"') == rf'"cb?secret\u003d{REDACTED}"'


def line(**fields: object) -> dict[str, object]:
    """Return the log line of one event with these fields."""
    stream = io.StringIO()
    setup(form="json", secrets=[SECRET], stream=stream)
    structlog.get_logger().info("visit.ended", **fields)
    found: dict[str, object] = json.loads(stream.getvalue())
    return found


@pytest.mark.parametrize("name", ["generation_id", "task_id"])
def test_an_id_is_cut_to_a_maximum_length(name: str) -> None:
    assert line(**{name: "x" * LONGEST_ID})[name] == "x" * LONGEST_ID
    told = line(**{name: "x" * 20_000})[name]
    assert told == "x" * (LONGEST_ID - 1) + "…"


def test_a_secret_in_an_id_is_removed_before_the_id_is_cut() -> None:
    told = line(task_id="x" * (LONGEST_ID - 8) + SECRET)["task_id"]
    assert SECRET[:4] not in str(told)
