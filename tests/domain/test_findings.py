"""The findings of one snapshot of the whole table."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.domain.findings.findings import (
    NAMES,
    Finding,
    FindingThresholds,
    findings,
    format_seconds,
    with_published,
)
from reconciler.domain.findings.snapshot import FailingSide, Snapshot

HEALTHY = Snapshot(in_flight={"queued": 2, "generating": 40}, canary_age=4.0, sweep_age=7.0, listening=True)
THRESHOLDS = FindingThresholds()

FIGURES = {
    "no_replica": {"instances": 0},
    "replica_lost": {"replicas_lost": ("shop (pid 7)",)},
    "clock_wrong": {"clock_ahead": -3600.0, "host": "shop"},
    "stuck": {"stuck": 3},
    "media_expiring": {"expiring": 2, "media_deadline": 5 * 3600.0},
    "lost": {"lost": 1},
    "provider_silent": {"failing": {"kie": FailingSide(30)}},
    "source_failing": {"failing": {"source": FailingSide(3)}},
    "storage_failing": {"failing": {"storage": FailingSide(3)}},
    "deaf_listener": {"canary_age": 31.0},
    "transaction_pooler": {"transaction_pooler": True},
    "late_sweep": {"sweep_age": 46.0},
    "schema_behind": {"schema_behind": 2},
    "outbox_growing": {"unannounced": 12, "unannounced_age": 900.0},
    "events_dead": {"events_dead": 2},
    "notification_queue": {"queue_usage": 0.6},
    "asset_overwritten": {"waiting": {"asset_overwritten": 1}},
    "unpaid_account": {"keys_unpaid": 1},
    "key_rejected": {"keys_rejected": 1},
    "storage_refuses": {"waiting": {"storage_refuses": 4}},
    "table_changed": {"waiting": {"table_changed": 4}},
    "host_unlisted": {"waiting": {"host_unlisted": 4}},
    "hook_failed": {"waiting": {"hook_failed": 4}},
    "row_refused": {"waiting": {"row_refused": 4}},
    "row_locked": {"waiting": {"row_locked": 4}},
    "parked": {"waiting": {"parked": 4}},
    "empty_success": {"waiting": {"empty_success": 4}},
    "no_task": {"waiting": {"no_task": 4}},
    "unreadable_output": {"waiting": {"unreadable_output": 4}},
    "over_limit": {"waiting": {"over_limit": 4}},
    "task_unknown": {"waiting": {"task_unknown": 4}},
    "results_missing": {"waiting": {"results_missing": 4}},
    "row_waits": {"waiting": {"a finding of a later version": 4}},
}


def found(**figures: object) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings(replace(HEALTHY, **figures), THRESHOLDS)}


def test_a_healthy_system_has_no_findings():
    assert findings(HEALTHY, THRESHOLDS) == ()


def test_each_finding_has_its_figure_here():
    assert set(FIGURES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_problem_alone_is_the_only_finding_and_says_what_to_do(name: str):
    (finding,) = findings(replace(HEALTHY, **FIGURES[name]), THRESHOLDS)

    assert finding.name == name
    assert finding.count > 0
    assert finding.says.endswith(".")
    assert finding.do.endswith(".")
    assert "{" not in finding.says


def test_all_findings_at_once_come_paging_first_and_none_twice():
    mappings = ("waiting", "failing")
    everything = {key: value for figures in FIGURES.values() for key, value in figures.items() if key not in mappings}
    failing = {side: one for figures in FIGURES.values() for side, one in figures.get("failing", {}).items()}
    waiting = {word: 1 for figures in FIGURES.values() for word in figures.get("waiting", {})}

    open_findings = findings(replace(HEALTHY, **everything, waiting=waiting, failing=failing), THRESHOLDS)

    names = [finding.name for finding in open_findings]
    assert sorted(names) == sorted(set(NAMES) - {"deaf_listener", "replica_lost"})
    severities = [finding.severity for finding in open_findings if finding.name != "media_expiring"]
    assert severities == sorted(severities)
    assert [name for name in NAMES if name in names[: severities.count("page")]] == names[: severities.count("page")]


@pytest.mark.parametrize(
    "name",
    ["media_expiring", "lost", "late_sweep", "unpaid_account", "key_rejected", "storage_refuses", "notification_queue"],
)
def test_a_finding_that_stops_deliveries_or_loses_results_pages(name: str):
    assert found(**FIGURES[name])[name].severity == "page"


@pytest.mark.parametrize(
    "figures",
    [
        {"canary_age": 30.0},
        {"sweep_age": 45.0},
        {"queue_usage": 0.5},
        {"unannounced": 12, "unannounced_age": 600.0},
        {"unannounced": 0, "unannounced_age": 900.0},
        {"failing": {"kie": FailingSide(21)}},
        {"failing": {"kie": FailingSide(21, seconds=9e9)}},
        {"failing": {"source": FailingSide(2, seconds=299.0)}},
        {"failing": {"storage": FailingSide(2, seconds=299.0)}},
    ],
)
def test_a_figure_at_its_threshold_is_no_finding(figures: dict[str, object]):
    assert found(**figures) == {}


def test_two_unreachable_rows_do_not_make_a_silent_provider():
    assert found(in_flight={"generating": 2}, failing={"kie": FailingSide(2)}) == {}
    assert "provider_silent" in found(in_flight={"generating": 3}, failing={"kie": FailingSide(3)})


@pytest.mark.parametrize(
    ("side", "name"), [("kie", "provider_silent"), ("source", "source_failing"), ("storage", "storage_failing")]
)
def test_one_row_that_a_party_has_failed_for_five_minutes_is_a_finding_that_says_since_when(side: str, name: str):
    failing = {side: FailingSide(1, 300.0, "store: storage_5xx, storage failed: 544")}

    opened = found(in_flight={"generating": 1}, failing=failing)

    assert set(opened) == {name}
    assert "for 5 min" in opened[name].says
    assert "storage failed: 544." in opened[name].says


def test_a_storage_that_only_our_check_finds_failing_is_a_finding_after_five_minutes():
    said = "check: timeout, storage did not answer in time"

    assert found(failing={"storage": FailingSide(0, 299.0, said)}) == {}
    opened = found(failing={"storage": FailingSide(0, 300.0, said)})["storage_failing"]

    assert opened.count == 1
    assert opened.says == f"Our storage fails our check of it, for 5 min. Last words: {said}."


def test_the_hosts_that_fail_are_named_up_to_five():
    hosts = tuple(f"cdn{n}.example" for n in range(9))

    advice = found(failing={"source": FailingSide(9, hosts=hosts)})["source_failing"].do

    assert "cdn4.example." in advice
    assert "cdn5.example" not in advice


def test_a_disconnected_listener_is_a_finding_before_its_canary_is_late():
    assert "deaf_listener" in found(listening=False)


def test_a_transaction_pooler_explains_a_deaf_listener():
    assert set(found(transaction_pooler=True, listening=False, canary_age=900.0)) == {"transaction_pooler"}


def test_a_slower_sweep_is_given_more_time():
    slow = replace(THRESHOLDS, sweep_seconds=60.0)

    assert findings(replace(HEALTHY, sweep_age=170.0), slow) == ()
    assert findings(replace(HEALTHY, sweep_age=181.0), slow)[0].name == "late_sweep"


def test_a_rejected_key_and_the_rows_that_wait_for_it_are_counted_once():
    assert found(keys_rejected=1, waiting={"key_rejected": 40})["key_rejected"].count == 40
    assert found(bucket_closed=1)["storage_refuses"].count == 1
    assert found(keys_unpaid=2)["unpaid_account"].count == 2


def test_unknown_findings_of_rows_are_added_up():
    assert found(waiting={"odd": 2, "odder": 3})["row_waits"].count == 5


def test_unlisted_hosts_are_named_up_to_five():
    hosts = tuple(f"cdn{n}.example" for n in range(9))

    advice = found(waiting={"host_unlisted": 9}, unlisted_hosts=hosts)["host_unlisted"].do

    assert "cdn0.example, cdn1.example" in advice
    assert "cdn4.example" in advice
    assert "cdn5.example" not in advice


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 s"),
        (119, "119 s"),
        (120, "2 min"),
        (5400, "90 min"),
        (7200, "2 h"),
        (9e5, "10 d"),
        (71.3, "71 s"),
        (301, "5 min"),
        (9000, "2.5 h"),
    ],
)
def test_durations_are_formatted_as_people_say_them(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_an_address_that_has_expired_expires_in_zero_seconds():
    assert "the first in 0 s." in found(expiring=1, media_deadline=-5)["media_expiring"].says
    assert found(expiring=1)["media_expiring"].says.endswith("addresses expire.")


def test_stuck_says_the_time_that_was_set():
    hour = replace(THRESHOLDS, stuck_after=timedelta(hours=3))

    assert "3 h" in findings(replace(HEALTHY, stuck=1), hour)[0].says


def test_a_table_that_cannot_be_used_is_one_page_that_names_it_and_no_late_sweep():
    trouble = "public.generations lacks user_id"

    (finding,) = findings(replace(HEALTHY, table_trouble=trouble, sweep_age=1e6), THRESHOLDS)

    assert (finding.name, finding.severity, finding.count) == ("table_changed", "page", 1)
    assert trouble in finding.says


SANE = {
    "stuck": st.integers(0, 9),
    "failing": st.dictionaries(
        st.sampled_from(["kie", "source", "storage"]),
        st.builds(FailingSide, st.integers(0, 60), st.floats(-9, 1e6), st.text(max_size=5)),
    ),
    "expiring": st.integers(0, 9),
    "media_deadline": st.none() | st.floats(-1e6, 1e6),
    "canary_age": st.floats(0, 1e6),
    "sweep_age": st.floats(0, 1e6),
    "listening": st.booleans(),
    "waiting": st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), st.integers(0, 9)),
    "transaction_pooler": st.booleans(),
    "queue_usage": st.floats(0, 1),
    "table_trouble": st.none() | st.text(max_size=5),
}


@given(st.fixed_dictionaries(SANE))
def test_findings_are_total_unique_and_known(figures: dict[str, object]):
    open_findings = findings(replace(HEALTHY, **figures), THRESHOLDS)

    names = [finding.name for finding in open_findings]
    assert len(names) == len(set(names))
    assert set(names) <= set(NAMES)
    assert all(finding.count > 0 for finding in open_findings)


def test_no_replica_is_a_finding_only_while_rows_are_in_flight() -> None:
    assert found(instances=0)["no_replica"].count == 42
    assert "no_replica" not in found(instances=0, in_flight={})


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({"clock_ahead": 90_000.0}, "The database's clock is 25 h ahead of the clock of shop."),
        ({"clock_ahead": -60.0}, "The database's clock is 60 s behind the clock of shop."),
        ({"clock_ahead": 59.0, "step_age": 30.0}, "The database's clock was set 30 s ago."),
    ],
)
def test_a_wrong_clock_is_named_with_how_wrong_it_is(figures: dict[str, object], says: str) -> None:
    assert found(host="shop", **figures)["clock_wrong"].says == says


@pytest.mark.parametrize("figures", [{"clock_ahead": 59.9}, {"step_age": 600.0}, {"step_age": -5.0}])
def test_a_clock_that_is_nearly_right_or_has_run_evenly_since_is_no_finding(figures: dict[str, object]) -> None:
    assert "clock_wrong" not in found(**figures)


@pytest.mark.parametrize(
    ("cause", "figures"),
    [
        ("no_replica", {"instances": 0}),
        ("table_changed", {"table_trouble": "it has no column task_id"}),
        ("storage_failing", {"failing": {"storage": FailingSide(4)}}),
        ("source_failing", {"failing": {"source": FailingSide(4)}}),
        ("storage_refuses", {"waiting": {"storage_refuses": 1}}),
        ("row_locked", {"waiting": {"row_locked": 1}}),
        ("hook_failed", {"hooks": {"on_delivered": 1}}),
        ("replica_lost", {"replicas_lost": ("shop (pid 7)",)}),
        ("clock_wrong", {"step_age": 30.0}),
    ],
)
def test_the_cause_is_named_before_the_rows_that_wait_for_it(cause: str, figures: dict[str, object]) -> None:
    names = list(found(stuck=5, expiring=2, **figures))
    assert (names[0], {"stuck", "media_expiring"} < set(names)) == (cause, True)


def test_a_command_shows_what_only_the_leader_can_know_and_else_what_the_tables_show_now() -> None:
    published = findings(
        replace(HEALTHY, bucket_closed=1, canary_age=31.0, stuck=9, failing={"kie": FailingSide(42)}), THRESHOLDS
    )
    shown = with_published(findings(replace(HEALTHY, stuck=2, waiting={"storage_refuses": 4}), THRESHOLDS), published)
    assert [(finding.name, finding.count) for finding in shown] == [
        ("storage_refuses", 4),
        ("stuck", 2),
        ("deaf_listener", 1),
    ]
