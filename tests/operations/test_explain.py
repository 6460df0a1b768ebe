"""The sentences of `explain` and the outcomes of operations, on made-up generations without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reconciler.operations.explain import ended, history, sentences
from reconciler.operations.operator import outcome
from reconciler.postgres.reports.generation_details import (
    AnnouncedResult,
    ApplicationRow,
    Bookkeeping,
    GenerationDetails,
    LeaseHolder,
    PastEvent,
    StoredAsset,
)
from reconciler.settings import load

NOW = datetime(2026, 3, 1, 3, 0, 0, tzinfo=UTC)
SETTINGS = load({}, Path(__file__).parent)
INSTANCE = UUID("6a3f2f60-7f0e-4b8e-9a6c-3f1d1c7a0001")
OURS = "https://project.supabase.co/generations/u/image/g_0.png"
THEIRS = "https://tempfile.aiquickdraw.com/r/one.png"


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def ahead(**span: float) -> datetime:
    return NOW + timedelta(**span)


def row(**facts: Any) -> ApplicationRow:
    values: dict[str, Any] = {
        "id": "g", "user_id": "u", "task_id": "t", "status": "generating", "kind": "image", "model": "flux-2/pro",
        "provider": "kie", "error": None, "asset_url": None, "created_at": ago(minutes=20),
    }  # fmt: skip
    return ApplicationRow(**{**values, **facts})


def work(**facts: Any) -> Bookkeeping:
    values: dict[str, Any] = dict.fromkeys(Bookkeeping.__dataclass_fields__)
    numbers = dict.fromkeys(("looks", "misses", "unknowns", "empties"), 0)
    flags = dict.fromkeys(("stale", "gave_up", "reopened"), False)
    return Bookkeeping(**{**values, **numbers, **flags, "seen_task": "t", "sources": (), "results": (), **facts})


def details(
    generation: ApplicationRow | None = None, known: Bookkeeping | None = None, **more: Any
) -> GenerationDetails:
    made = GenerationDetails(generation or row(), known, None, (), (), (), replicas=1, now=NOW)
    return replace(made, **more)


def receipt(n: int = 0, **facts: Any) -> StoredAsset:
    values: dict[str, Any] = {
        "task_id": "t", "n": n, "path": f"u/image/g_{n}.png", "mime": "image/png", "size": 7, "sha256": "ab",
        "version": None, "verified_by": "etag-md5", "stored_at": ago(minutes=1),
    }  # fmt: skip
    return StoredAsset(**{**values, **facts})


def test_a_row_that_no_replica_has_visited() -> None:
    answer = sentences(details(), SETTINGS)

    assert answer["row"] == (
        "Status generating: image by flux-2/pro, created 20 min ago (2026-03-01 02:40:00 UTC), task t, user u."
    )
    assert answer["KIE"] == "No replica has looked at it yet."
    assert answer["holder"] == "No replica holds it."
    assert answer["clock"] == (
        "First to run out: the time until we give up (RECONCILER_GIVE_UP_AFTER), in 24 h (2026-03-02 02:40:00 UTC)."
    )
    assert answer["next"] == "The next sweep finds it."
    assert "results" not in answer


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"provider": "other"}, "its provider is other (RECONCILER_PROVIDERS)"),
        ({"task_id": "replicate-1"}, "its task id does not match RECONCILER_TASK_PATTERN"),
        ({"task_id": 2001 * "a"}, "its task id has more than 2000 bytes"),
    ],
)
def test_nothing_is_promised_for_a_row_that_is_left_alone(facts: dict[str, Any], reason: str) -> None:
    settings = SETTINGS.model_copy(update={"task_pattern": "^[0-9a-z]+$"})

    answer = sentences(details(row(**facts), replicas=0), settings)

    assert answer["next"] == f"Nothing: the daemon leaves it alone, because {reason}."
    assert "clock" not in answer


@pytest.mark.parametrize("facts", [{"provider": None}, {"task_id": None}, {"task_id": 2000 * "t"}])
def test_the_sweep_finds_a_row_that_may_be_ours(facts: dict[str, Any]) -> None:
    answer = sentences(details(row(**facts)), SETTINGS.model_copy(update={"task_pattern": "^t+$"}))

    assert answer["next"] == "The next sweep finds it."


def test_a_row_that_was_claimed_under_other_settings_is_still_visited() -> None:
    answer = sentences(details(row(provider="other"), work(due_at=ahead(seconds=30))), SETTINGS)

    assert answer["next"].startswith("Next visit in 30 s")


def test_without_a_replica_the_operator_is_told_to_start_one() -> None:
    answer = sentences(details(replicas=0), SETTINGS)

    assert answer["why"].startswith("No replica of the daemon is alive")
    assert answer["do"].startswith("Start one: `kie-reconciler run`")
    assert answer["next"] == "Nothing, until a replica runs."


def test_a_task_in_flight_says_when_the_next_visit_is() -> None:
    known = work(
        looks=3, looked_at=ago(seconds=10), acknowledged_at=ago(minutes=19), answered_at=ago(seconds=10),
        why="KIE says generating", due_at=ahead(seconds=30), early_at=ahead(seconds=8),
    )  # fmt: skip

    answer = sentences(details(known=known), SETTINGS)

    assert answer["KIE"] == (
        "Asked 3 times, last 10 s ago (2026-03-01 02:59:50 UTC)."
        " KIE knows the task; its last answer came 10 s ago (2026-03-01 02:59:50 UTC)."
    )
    assert answer["why"] == "KIE says generating. KIE has accepted the task and has not finished it."
    assert answer["next"] == (
        "Next visit in 30 s (2026-03-01 03:00:30 UTC); from 03:00:08 on if a request is to spare."
    )


def test_a_finding_says_what_to_do() -> None:
    known = work(looks=4, looked_at=ago(minutes=1), misses=4, why="KIE: unauthorized", finding="key_rejected",
                 due_at=ago(seconds=40))  # fmt: skip

    answer = sentences(details(known=known), SETTINGS)

    assert answer["KIE"].endswith("KIE has not answered about the task yet. Failed attempts in a row: 4.")
    assert answer["why"].startswith("KIE: unauthorized. KIE rejects the API key")
    assert answer["do"].startswith("Correct KIE_API_KEY")
    assert answer["next"] == "Its next visit has been due for 40 s: it waits for its turn among the requests to KIE."


def test_only_a_task_that_kie_does_not_know_may_be_another_accounts() -> None:
    known = work(looks=4, looked_at=ago(minutes=1), misses=4, why="KIE does not know the task: record_null")

    assert (
        "KIE has never acknowledged the task: it may belong to another key"
        in sentences(details(known=known), SETTINGS)["KIE"]
    )


def test_with_half_of_the_results_stored_their_addresses_run_out_first() -> None:
    known = work(
        looks=2, looked_at=ago(minutes=5), sources=(THEIRS, THEIRS), completed_at=ago(hours=20),
        acknowledged_at=ago(hours=20), answered_at=ago(minutes=5), media_deadline=ahead(hours=4),
        why="store: timeout", due_at=ahead(minutes=5),
    )  # fmt: skip
    assets = (receipt(0), receipt(1, verified_by=None, stored_at=None))

    answer = sentences(details(row(created_at=ago(hours=19.9)), known, assets=assets), SETTINGS)

    assert answer["results"] == (
        "KIE finished 20 h ago (2026-02-28 07:00:00 UTC). 1 of 2 results are stored and proven."
    )
    assert answer["clock"] == (
        "First to run out: the time that KIE's result addresses work, in 4 h (2026-03-01 07:00:00 UTC)."
    )


def test_a_deadline_that_has_run_out_comes_before_one_that_will() -> None:
    known = work(looks=90, looked_at=ago(hours=1), due_at=ahead(hours=1), why="KIE: timeout")

    answer = sentences(details(row(created_at=ago(days=2)), known), SETTINGS)

    assert answer["clock"] == (
        "Run out: the time until we give up (RECONCILER_GIVE_UP_AFTER), 24 h ago (2026-02-28 03:00:00 UTC)."
        " First to run out: the time that KIE keeps results, in 12 d (2026-03-13 03:00:00 UTC)."
    )
    assert answer["next"].endswith("until then KIE is asked less and less often.")


def test_the_replica_that_holds_it_is_named() -> None:
    holder = LeaseHolder(INSTANCE, "worker-2", 77, ago(seconds=3))
    held = details(known=work(lease_until=ahead(seconds=17)), holder=holder)
    lapsed = details(known=work(lease_until=ago(seconds=5), due_at=ago(seconds=20)), holder=holder)
    stranger = details(known=work(lease_until=ahead(seconds=17)), holder=LeaseHolder(INSTANCE, None, None, None))

    assert sentences(held, SETTINGS)["holder"] == (
        f"Held by instance {INSTANCE} (on worker-2, pid 77); the lease ends in 17 s (2026-03-01 03:00:17 UTC)"
        " unless it is renewed."
    )
    assert sentences(held, SETTINGS)["next"] == "A visit is under way."
    assert sentences(lapsed, SETTINGS)["holder"] == (
        f"The lease of instance {INSTANCE} (on worker-2, pid 77) ended 5 s ago (2026-03-01 02:59:55 UTC):"
        " the next visit takes it over."
    )
    assert "not on the list of replicas" in sentences(stranger, SETTINGS)["holder"]


def test_another_task_begins_the_deadlines_anew() -> None:
    again = details(row(created_at=ago(days=15)), work(task_since=ago(hours=1), looks=1, looked_at=ago(hours=1)))

    answer = sentences(again, SETTINGS)

    assert answer["clock"] == (
        "First to run out: the time until we give up (RECONCILER_GIVE_UP_AFTER), in 23 h (2026-03-02 02:00:00 UTC)."
    )
    assert "It fails when KIE answers" not in answer["next"]


def test_nothing_more_happens_to_a_delivered_row() -> None:
    known = work(sources=(THEIRS,), looks=1, looked_at=ago(minutes=18), delivered_at=ago(minutes=18))
    done = details(row(status="success", asset_url=OURS), known, assets=(receipt(),), replicas=0)

    answer = sentences(done, SETTINGS)

    assert answer["results"].endswith("Delivered 18 min ago (2026-03-01 02:42:00 UTC), 2 min after its creation.")
    assert answer["next"] == f"Nothing more: it is delivered, at {OURS}"
    assert "clock" not in answer


def test_a_delivery_that_storage_has_lost_does_not_count_as_delivered() -> None:
    known = work(delivered_at=ago(days=40), looks=1, looked_at=ago(days=40))
    events = [PastEvent(kind, ago(days=days), ago(days=days), None) for kind, days in (("succeeded", 40), ("lost", 1))]
    gone = details(row(status="success", asset_url=OURS), known, assets=(receipt(),), events=tuple(events), replicas=1)

    assert (
        sentences(gone, SETTINGS)["next"]
        == f"Nothing more: storage lost the object at {OURS}, and KIE no longer has it."
    )


def test_a_success_that_points_at_the_provider_is_not_the_end() -> None:
    theirs = details(row(status="success", asset_url=THEIRS), work(due_at=ahead(minutes=1)))

    assert not ended(theirs, SETTINGS)
    assert ended(details(row(status="success", asset_url=OURS)), SETTINGS)


def test_a_receipt_proves_our_object_where_storage_has_the_providers_host() -> None:
    shared = "https://tempfile.aiquickdraw.com/files/u/image/g_0.png"
    success = row(status="success", asset_url=shared)

    assert ended(details(success, work(), assets=(receipt(),)), SETTINGS)
    assert not ended(details(success, work(), assets=(receipt(task_id="earlier"),)), SETTINGS)
    assert not ended(details(success, work(), assets=(receipt(verified_by=None),)), SETTINGS)


def test_a_generation_that_we_gave_up_is_still_visited_and_a_refused_one_is_not() -> None:
    ours = work(gave_up=True, due_at=ahead(hours=1), why="gave up after 24 h")
    gave_up = details(row(status="failed", error="gave up after 24 h"), ours)
    refused = details(row(status="failed", error="nsfw (422)"), work(why="nsfw (422)"))

    assert sentences(gave_up, SETTINGS)["next"] == (
        "Next visit in 60 min (2026-03-01 04:00:00 UTC)."
        " We gave it up ourselves: if KIE still succeeds, the result is delivered."
    )
    assert (
        sentences(refused, SETTINGS)["next"] == "Nothing more by itself; `kie-reconciler retry g` asks KIE once more."
    )
    assert sentences(refused, SETTINGS)["row"].endswith("Its error says: nsfw (422)")


def test_a_cancelled_row_belongs_to_the_application() -> None:
    answer = sentences(details(row(status="cancelled")), SETTINGS)

    assert answer["next"] == "Nothing: status cancelled belongs to the application."


def test_what_is_known_of_an_earlier_task_is_not_said_of_this_one() -> None:
    answer = sentences(
        details(known=work(seen_task="earlier", why="KIE: timeout", looks=9, looked_at=ago(hours=1))), SETTINGS
    )

    assert answer["KIE"] == "No replica has looked at it since it got this task."
    assert answer["why"] == "No replica has looked at it since it got this task."
    assert answer["next"] == "The next sweep finds it."


def test_an_open_row_without_a_planned_visit_can_be_retried() -> None:
    answer = sentences(details(row(created_at=ago(days=15)), work(why="nothing left to fetch after 14 days")), SETTINGS)

    assert answer["next"] == "No visit is planned; `kie-reconciler retry g` makes one."


def test_without_a_task_kie_cannot_be_asked() -> None:
    answer = sentences(details(row(task_id=None), work(seen_task=None, due_at=ahead(hours=1))), SETTINGS)

    assert answer["KIE"] == "There is no task id, so KIE cannot be asked."
    assert "task not known yet" in answer["row"]


def test_the_history_is_in_order() -> None:
    lines = history(
        details(
            events=(
                PastEvent("failed", ago(hours=2), ago(hours=1), None),
                PastEvent("failed", ago(days=4), None, ago(hours=20)),
                PastEvent("recovered", ago(minutes=1), None, None),
            ),
            callbacks=(ago(minutes=30),),
            assets=(receipt(stored_at=ago(minutes=2)), receipt(1, verified_by=None, stored_at=None)),
        )
    )

    assert lines == [
        "2026-02-25 03:00:00 failed, not announced: given up after 3.2 d",
        "2026-03-01 01:00:00 failed, announced 02:00:00",
        "2026-03-01 02:30:00 callback received",
        "2026-03-01 02:58:00 stored u/image/g_0.png, 7 bytes, sha256 ab, proven by etag-md5",
        "2026-03-01 02:59:00 recovered, not announced",
        "begun: u/image/g_1.png, 7 bytes, no receipt yet",
    ]


@pytest.mark.parametrize(
    ("generation", "known", "word", "why"),
    [
        (row(status="success", asset_url=OURS), None, "delivered", ""),
        (row(status="failed", error="nsfw (422)"), work(), "failed", "nsfw (422)"),
        (row(status="failed"), None, "failed", "no reason was written"),
        (row(status="failed", error="gave up"), work(gave_up=True, due_at=ahead(hours=1)), "working", "gave up"),
        (row(), work(due_at=ahead(hours=1), why="KIE says waiting"), "working", "KIE says waiting"),
        (row(), work(why="nothing left to fetch"), "left", "nothing left to fetch"),
        (row(), None, "left", "the daemon leaves it alone: its provider or its task id is excluded"),
        (row(status="cancelled"), None, "left", "status cancelled belongs to the application"),
        (row(), work(lease_until=ahead(seconds=9)), "working", "another instance holds it; KIE was not asked yet"),
        (
            row(),
            work(seen_task="earlier", why="old", lease_until=ahead(seconds=9)),
            "working",
            "another instance holds it; KIE was not asked yet",
        ),
    ],
)
def test_the_outcome_of_a_generation(
    generation: ApplicationRow, known: Bookkeeping | None, word: str, why: str
) -> None:
    result = outcome(details(generation, known), SETTINGS)

    assert (result.word, result.why) == (word, why)
    assert result.settled == (word in ("delivered", "failed"))


def by_half(*, due: bool = True, **facts: Any) -> GenerationDetails:
    """A success that shows the first of two results."""
    known = work(
        sources=(THEIRS,), results=(AnnouncedResult("a", 0, arrived=True), AnnouncedResult("b2", 1, arrived=False)),
        shown=1, completed_at=ago(minutes=30), due_at=ahead(minutes=30) if due else None,
        why="1 of 2 results are delivered; KIE has not given the others", finding="results_missing",
    )  # fmt: skip
    return details(row(status="success", asset_url=OURS, **facts), known, assets=(receipt(),))


def test_a_success_without_every_result_names_the_missing_ones_and_when_they_are_asked_for() -> None:
    answer = sentences(by_half(), SETTINGS)

    assert "1 of 2 results are stored and proven. KIE has announced and not given yet: b2." in answer["results"]
    assert answer["next"].startswith("Next visit in 30 min")
    assert answer["next"].endswith("the missing results, which are added if KIE still gives them.")
    assert "the time that KIE keeps results" in answer["clock"]
    assert "they are added" in answer["do"]


def test_a_success_whose_missing_results_are_given_up_says_so() -> None:
    answer = sentences(by_half(due=False), SETTINGS)

    assert answer["next"] == f"Nothing more: it is delivered without the missing results, at {OURS}"
    assert "clock" not in answer


def test_many_missing_results_are_counted() -> None:
    results = tuple(AnnouncedResult(f"#{n}", n, arrived=False) for n in range(12))

    answer = sentences(details(known=work(results=results)), SETTINGS)

    assert "0 of 12 results" in answer["results"]
    assert answer["results"].endswith("#8, #9 and 2 more.")


def test_a_result_with_a_receipt_is_not_missing() -> None:
    known = work(results=(AnnouncedResult("a", 0, arrived=False),))

    counts = details(known=known, assets=(receipt(),)).results

    assert counts is not None
    assert (counts.announced, counts.stored, counts.missing) == (1, 1, ())


def test_what_a_daemon_that_keeps_only_addresses_wrote_is_counted() -> None:
    counts = details(known=work(sources=(THEIRS, THEIRS)), assets=(receipt(),)).results

    assert counts is not None
    assert (counts.announced, counts.stored, counts.missing) == (2, 1, ())
    assert details(known=work()).results is None


def test_a_delivery_without_every_result_is_settled_and_says_what_it_lacks() -> None:
    lacking = outcome(by_half(), SETTINGS)

    assert (lacking.word, lacking.asset_url) == ("delivered", OURS)
    assert "1 of 2" in lacking.why
