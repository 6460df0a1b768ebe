"""docs/INCIDENTS.md holds all seventeen incidents, what an operator sees of each, and nothing of its machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.metrics import Metrics
from testkit.stage import KEY, USER

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "INCIDENTS.md").read_text()
RULES = (ROOT / "monitoring" / "rules" / "alerts.yml").read_text()
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))
TITLES = (
    "KIE down", "Wrong key", "No credits", "Storage full", "Storage down", "Quota reached",
    "Result host down", "Bucket made private", "Trigger dropped",
    "Transaction pooler", "Replica killed", "Clock skewed", "Poisoned row", "Table altered",
    "Clock stepped", "Hook blocked", "No replica running",
)  # fmt: skip
PLACES = (
    "kie-reconciler status", "the page's banner", "metrics", "alerts", "log", "kie-reconciler stuck",
    "kie-reconciler explain GENERATION", "kie-reconciler doctor, warnings and failures",
)  # fmt: skip
MAY_BE_EMPTY = {"alerts", "kie-reconciler doctor, warnings and failures"}
OF_A_RUNNING_DAEMON = {"the page's banner", "metrics", "log"}
ALERT = re.compile(r"^(\w+) \((page|ticket), after ", re.MULTILINE)
OURS = re.compile(
    r"127\.0\.0\.1:\d|/tmp|/root|/home|/work|\b[0-9a-f]{8}-[0-9a-f]{4}-|\b[0-9a-f]{32}|\b20\d\d-\d\d-\d\d|eyJ"
)  # fmt: skip


def block(title: str, part: str) -> str:
    """What a section shows under one of its headings, empty where that is nothing."""
    found = re.search(rf"^{re.escape(part)}:\n\n```text\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


def test_there_are_the_seventeen_incidents_in_order_and_no_other() -> None:
    assert tuple(SECTIONS) == TITLES


@pytest.mark.parametrize("title", TITLES)
def test_an_incident_tells_what_every_place_shows_and_what_to_do(title: str) -> None:
    told, _, _ = SECTIONS[title].partition("\nkie-reconciler status:")
    happened, _, do = told.partition("**Do:** ")
    assert len(happened.split()) > 5
    assert len(do.split()) > 5
    assert [place for place in PLACES if f"\n{place}:" not in SECTIONS[title]] == []
    empty = {place for place in PLACES if not block(title, place)} - MAY_BE_EMPTY
    assert empty == (OF_A_RUNNING_DAEMON if title == "No replica running" else set())


@pytest.mark.parametrize("title", TITLES)
def test_every_alert_is_shipped_with_that_severity_and_stands_in_the_table(title: str) -> None:
    told = ALERT.findall(block(title, "alerts"))
    for name, severity in told:
        (rule, *_) = re.findall(rf"- alert: {name}\n(?:.*\n)*?.*severity: (\w+)", RULES)
        assert rule == severity, name
    (row,) = re.findall(rf"^\| \[{title}\]\(#[\w-]+\) \| (.*) \|$", PAGE, re.MULTILINE)
    assert row == (", ".join(dict.fromkeys(f"{name} ({severity})" for name, severity in told)) or "none")


def test_every_metric_and_every_event_is_one_of_the_daemons() -> None:
    known = {name for names in Metrics().registry._collector_to_names.values() for name in names}
    assert set(re.findall(r"^(kie_reconciler_\w+)", PAGE, re.MULTILINE)) <= known
    operations = (ROOT / "docs" / "OPERATIONS.md").read_text()
    events = set(re.findall(r'"event": "([\w.]+)"', PAGE))
    assert events
    assert [event for event in events if f"| `{event}` |" not in operations] == []


def test_nothing_of_the_machine_or_of_a_secret_is_left_in_it() -> None:
    assert OURS.findall(PAGE) == []
    assert KEY not in PAGE
    assert USER not in PAGE


def test_operators_are_led_to_it() -> None:
    assert "(INCIDENTS.md)" in (ROOT / "docs" / "OPERATIONS.md").read_text()
