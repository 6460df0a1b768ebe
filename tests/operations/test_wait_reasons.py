"""What the reasons of waiting generations mean: every code and every finding has a cause and a remedy of its own."""

from __future__ import annotations

import pytest

from reconciler.domain.findings.findings import NAMES, FindingThresholds, findings
from reconciler.domain.findings.snapshot import Snapshot
from reconciler.operations.wait_reasons import Meaning, meaning
from tests.contract.test_operations_page import coded_reasons, rows, section, words

OTHER = meaning("no word of ours", None)
STAGES = {stage: meaning(f"{stage}: no_word_of_ours", None) for stage in ("KIE", "fetch", "store", "prove")}
ELSEWHERE = ("status …", "createTask: outcome unknown")
"""Beginnings of what is no reason of a row that waits, but a state."""


def listed() -> list[str]:
    """Return a sample of each reason on the page; a code without a stage has that of its row's first reason."""
    found = []
    for row in rows(section("Reasons that `explain` and `stuck` show")):
        first, *others = words(row[0])
        stage, colon, _ = first.rpartition(": ")
        bare = stage + colon if colon else "KIE says "
        found += [first, *(other if " " in other else bare + other for other in others)]
    return [
        one.replace("… of …", "1 of 2").replace("… waits", "the table waits").replace("…", "x")
        for one in found
        if not one.startswith(ELSEWHERE)
    ]


def is_sentence(text: str) -> bool:
    return text[0].isupper() and text.endswith(".")


def check(meant: Meaning) -> None:
    assert is_sentence(meant.cause), meant
    assert is_sentence(meant.remedy), meant


def test_every_finding_that_a_row_can_have_means_something_and_has_a_remedy() -> None:
    for name in NAMES:
        alone = Snapshot(in_flight={}, canary_age=0, sweep_age=0, listening=True, waiting={name: 1})
        if findings(alone, FindingThresholds()):
            check(meaning(None, name))
            assert meaning(None, name) != OTHER, name


def test_a_finding_of_another_version_still_means_something() -> None:
    check(meaning(None, "a_finding_of_another_version"))


@pytest.mark.parametrize("code", sorted(coded_reasons()))
def test_every_code_has_a_cause_and_a_remedy_of_its_own_at_some_stage(code: str) -> None:
    meant = [meaning(f"{stage}: {code}, detail", None) for stage in STAGES]

    assert any(one not in STAGES.values() for one in meant), code
    for one in meant:
        check(one)


@pytest.mark.parametrize("reason", listed())
def test_every_reason_on_the_page_has_a_cause_and_a_remedy_of_its_own(reason: str) -> None:
    check(meaning(reason, None))
    assert meaning(reason, None) not in (OTHER, *STAGES.values())


def test_a_parked_row_is_explained_by_that_and_not_by_its_last_attempt() -> None:
    assert "RECONCILER_GIVE_UP_AFTER" in meaning("KIE: timeout", "parked").cause


def test_a_task_that_nobody_knows_asks_for_the_key_that_made_it() -> None:
    unknown = meaning("KIE does not know the task: record_null", "task_unknown")

    assert "none of the keys" in unknown.cause
    assert "KIE_API_KEY_VIDEO" in unknown.remedy
    assert "yet" in meaning("KIE does not know the task: record_null", None).cause, "it is young"


def test_what_one_row_of_a_finding_means_does_not_count_rows() -> None:
    for name in NAMES:
        assert "(1 " not in meaning(None, name).cause
