"""Where a generation is: every state with its cause and its remedy, on made-up generations without a database."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.domain.transfer import Transfer
from reconciler.operations.diagnosis import Diagnosis, State
from reconciler.operations.explain import diagnosed, explain
from reconciler.postgres.reports.generation_details import AnnouncedResult, GenerationDetails, LeaseHolder, PastEvent
from tests.operations.test_explain import (
    INSTANCE,
    OURS,
    SETTINGS,
    THEIRS,
    ago,
    ahead,
    details,
    receipt,
    row,
    work,
)

HOLDER = LeaseHolder(INSTANCE, "worker-2", 77, ago(seconds=0.8))
SILENT = LeaseHolder(INSTANCE, "worker-2", 77, ago(seconds=25))
UNLISTED = LeaseHolder(INSTANCE, None, None, None)
TWO = (AnnouncedResult("a", 0, arrived=True), AnnouncedResult("b", 1, arrived=False))


def of(made: GenerationDetails) -> Diagnosis:
    return diagnosed(made, SETTINGS)


def held(holder: LeaseHolder = HOLDER, **more: Any) -> GenerationDetails:
    known = work(lease_until=ahead(seconds=17), looks=1, why="KIE says waiting", results=TWO)
    return details(known=known, holder=holder, **more)


def moving(stage: str, **facts: Any) -> GenerationDetails:
    values: dict[str, Any] = {"done": 10_000_000, "total": 30_000_000, "seconds": 5.0, **facts}
    return held(transfer=Transfer(generation_id="g", n=0, stage=stage, **values).measured((), 0.0))


def waits(why: str | None, finding: str | None = None, **facts: Any) -> GenerationDetails:
    return details(known=work(**{"looks": 3, "due_at": ahead(seconds=30), "why": why, "finding": finding, **facts}))


CASES: dict[State, GenerationDetails] = {
    State.DELIVERED: details(row(status="success", asset_url=OURS), work(), assets=(receipt(),)),
    State.DELIVERED_IN_PART: details(
        row(status="success", asset_url=OURS), work(results=TWO, shown=1, due_at=ahead(hours=1)), assets=(receipt(),)
    ),
    State.LOST: details(
        row(status="success", asset_url=OURS), work(), events=(PastEvent("lost", ago(days=1), None, None),)
    ),
    State.FAILED: details(row(status="failed", error="nsfw (422)"), work()),
    State.LEFT_TO_APPLICATION: details(row(status="cancelled")),
    State.FETCHING: moving("fetch"),
    State.STORING: moving("store"),
    State.VERIFYING: moving("prove"),
    State.ASKING: held(asking=4.0),
    State.VISITED: held(),
    State.HOLDER_SILENT: held(SILENT),
    State.HOLDER_UNLISTED: held(UNLISTED),
    State.OTHER_PROVIDER: details(row(provider="upstream")),
    State.OTHER_TASK_ID: details(row(task_id=2001 * "a")),
    State.NO_REPLICA: details(known=work(due_at=ago(minutes=1), why="KIE: timeout", looks=1), replicas=0),
    State.LEASE_ENDED: details(known=work(lease_until=ago(seconds=5), due_at=ago(seconds=20)), holder=HOLDER),
    State.UNSEEN: details(),
    State.LOCKED: waits("the table waits for a lock that another session holds", write_at=ahead(seconds=2)),
    State.UNPLANNED: waits("KIE refused the task: nsfw", due_at=None),
    State.GAVE_UP: details(row(status="failed"), work(gave_up=True, due_at=ahead(hours=1), why="gave up after 24 h")),
    State.ORDER_UNKNOWN: details(row(task_id=None), work(seen_task=None, ordered_at=ago(minutes=5), due_at=ahead())),
    State.FIRST_LOOK: waits(None, looks=0),
    State.PARKED: waits("KIE: timeout", "parked"),
    State.WORKING: waits("KIE says generating"),
    State.WAITING: waits("store: timeout"),
}


def test_there_is_a_case_of_every_state() -> None:
    assert set(CASES) == set(State)


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_cause_and_a_remedy(state: State) -> None:
    found = of(CASES[state])

    assert found.state == state
    assert found.cause.endswith(".")
    assert found.remedy[0].isupper()
    assert found.remedy.endswith(".")


def test_in_the_middle_of_a_transfer_its_bytes_and_rate_are_told_and_not_what_kie_said_before() -> None:
    told = explain(moving("fetch"), SETTINGS)

    assert told["why"] == (
        "Result 1 of 2 is being fetched: 10.0 MB of 30.0 MB (33%), 2.0 MB/s on average, for 5 s,"
        " as replica worker-2, pid 77, reported 0.8 s ago."
    )
    assert told["do"] == "Wait: at this rate this step ends in 10 s."
    assert "waiting" not in " ".join(told.values())


def test_a_length_that_the_host_does_not_tell_is_not_made_up() -> None:
    told = of(moving("fetch", total=None))

    assert ": 10.0 MB, 2.0 MB/s on average" in told.cause
    assert told.remedy == "Wait: a transfer that breaks off is repeated by itself."


def test_the_row_of_a_dead_replica_is_taken_over_in_the_seconds_that_its_lease_lasts() -> None:
    found = of(held(SILENT, replicas=2))
    assert "has not reported for 25 s" in found.cause
    assert found.remedy == "Wait: unless it comes back, another replica takes the row over in 17 s."

    assert of(held(SILENT, replicas=1)).remedy.endswith("No other replica is alive: start `kie-reconciler run`.")
    assert of(held(UNLISTED, replicas=1)).remedy.endswith("when its lease ends.")
    assert of(held(UNLISTED, replicas=0)).remedy.endswith("No other replica is alive: start `kie-reconciler run`.")


def test_nobody_says_that_the_visit_of_a_dead_replica_is_under_way() -> None:
    for holder in (SILENT, UNLISTED):
        told = explain(held(holder), SETTINGS)
        assert "under way" not in " ".join(told.values())
        assert told["next"].startswith("The next visit begins when the lease ends")


def test_a_parked_task_that_kie_knows_needs_no_other_key() -> None:
    known = waits("KIE: timeout", "parked", acknowledged_at=ago(days=2))

    assert "key" in of(CASES[State.PARKED]).remedy
    assert of(known).remedy == "Wait: KIE is asked every 30 min to 6 h, and its answer ends the row."


def test_without_a_replica_the_last_words_are_kept_and_the_command_is_told() -> None:
    found = of(CASES[State.NO_REPLICA])

    assert found.cause.endswith("The last attempt: KIE: timeout.")
    assert "`kie-reconciler run`" in found.remedy


def test_a_row_of_another_provider_names_the_setting() -> None:
    assert "add upstream to RECONCILER_PROVIDERS" in of(CASES[State.OTHER_PROVIDER]).remedy
    assert of(details(row(provider="upstream"), replicas=0)).state == State.OTHER_PROVIDER


def test_a_task_that_no_key_knows_asks_for_the_key_that_made_it() -> None:
    found = of(waits("KIE does not know the task: record_null", "task_unknown"))

    assert found.cause.startswith("KIE does not know the task: record_null.")
    assert "KIE_API_KEY" in found.remedy


@pytest.mark.parametrize("why", [None, "waiting for its first poll: the rate limit has no spare request"])
def test_only_a_row_that_nobody_asked_kie_about_waits_for_its_first_look(why: str | None) -> None:
    assert "first look" in of(waits(why, looks=0)).cause
    assert "first look" not in of(waits("KIE: path_silent, no answer", looks=0)).cause
    assert "first look" not in of(waits(None, looks=1)).cause
    assert "first look" not in of(held()).cause
    assert "first look" not in of(moving("fetch")).cause


def test_while_the_first_visit_is_under_way_nobody_says_that_kie_was_not_asked() -> None:
    first = details(known=work(lease_until=ahead(seconds=17)), holder=HOLDER, asking=3.0)

    assert explain(first, SETTINGS)["KIE"] == "KIE was not asked about it before this visit."


def test_a_remedy_names_the_row_that_it_is_about() -> None:
    assert "`kie-reconciler retry g`" in of(waits("store: bucket_missing", "storage_refuses")).remedy


def test_a_success_at_the_provider_waits_like_any_other_row() -> None:
    theirs = details(
        row(status="success", asset_url=THEIRS), work(due_at=ahead(minutes=1), looks=1, why="fetch: empty")
    )

    assert of(theirs).state == State.WAITING
