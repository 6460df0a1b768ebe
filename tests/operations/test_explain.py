"""What somebody woken at night reads about one generation; cases are made up, no database is needed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from reconciler.operations.explain import ExplainTerms, ended, lines, story
from reconciler.operations.operator import outcome
from reconciler.postgres.reports.generation_details import (
    ApplicationRow,
    Bookkeeping,
    GenerationDetails,
    LeaseHolder,
    PastEvent,
    StoredAsset,
)

NOW = datetime(2026, 3, 1, 3, 0, 0, tzinfo=UTC)
TERMS = ExplainTerms(give_up_after=timedelta(hours=24), their_hosts=("aiquickdraw.com",))
INSTANCE = UUID("6a3f2f60-7f0e-4b8e-9a6c-3f1d1c7a0001")
OURS = "https://project.supabase.co/generations/u/image/g_0.png"
THEIRS = "https://tempfile.aiquickdraw.com/r/one.png"


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def ahead(**span: float) -> datetime:
    return NOW + timedelta(**span)


def row(**facts: Any) -> ApplicationRow:
    plain: dict[str, Any] = {
        "id": "g", "user_id": "u", "task_id": "t", "status": "generating", "kind": "image", "model": "flux-2/pro",
        "provider": "kie", "error": None, "asset_url": None, "created_at": ago(minutes=20),
    }  # fmt: skip
    return ApplicationRow(**{**plain, **facts})


def work(**facts: Any) -> Bookkeeping:
    plain: dict[str, Any] = dict.fromkeys(Bookkeeping.__dataclass_fields__)
    numbers = dict.fromkeys(("looks", "misses", "unknowns", "empties"), 0)
    flags = dict.fromkeys(("stale", "gave_up", "reopened"), False)
    return Bookkeeping(**{**plain, **numbers, **flags, "seen_task": "t", "sources": (), **facts})


def case(generation: ApplicationRow | None = None, known: Bookkeeping | None = None, **more: Any) -> GenerationDetails:
    plain = GenerationDetails(generation or row(), known, None, (), (), (), replicas=1, now=NOW)
    return replace(plain, **more)


def receipt(n: int = 0, **facts: Any) -> StoredAsset:
    plain: dict[str, Any] = {
        "task_id": "t", "n": n, "path": f"u/image/g_{n}.png", "mime": "image/png", "size": 7, "sha256": "ab",
        "version": None, "verified_by": "etag-md5", "stored_at": ago(minutes=1),
    }  # fmt: skip
    return StoredAsset(**{**plain, **facts})


def test_a_row_that_nobody_has_looked_at() -> None:
    told = story(case(), TERMS)

    assert told["row"] == (
        "Status generating: image by flux-2/pro, created 20 min ago (2026-03-01 02:40:00 UTC), task t, user u."
    )
    assert told["KIE"] == "No replica has looked at it yet."
    assert told["holder"] == "Nobody holds it."
    assert told["clock"] == (
        "First to run out: our patience (RECONCILER_GIVE_UP_AFTER), in 24 h (2026-03-02 02:40:00 UTC)."
    )
    assert told["next"] == "The next sweep finds it."
    assert "results" not in told


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"provider": "other"}, "its provider is other (RECONCILER_PROVIDERS)"),
        ({"task_id": "replicate-1"}, "its task id does not match RECONCILER_TASK_PATTERN"),
        ({"task_id": 2001 * "a"}, "its task id has more than 2000 bytes"),
    ],
)
def test_of_a_row_that_is_left_alone_nothing_is_promised(facts: dict[str, Any], why: str) -> None:
    terms = replace(TERMS, task_pattern="^[0-9a-z]+$")

    told = story(case(row(**facts), replicas=0), terms)

    assert told["next"] == f"Nothing: it is not one of ours, as {why}."
    assert "clock" not in told


@pytest.mark.parametrize("facts", [{"provider": None}, {"task_id": None}, {"task_id": 2000 * "t"}])
def test_a_row_that_may_be_ours_is_found(facts: dict[str, Any]) -> None:
    told = story(case(row(**facts)), replace(TERMS, task_pattern="^t+$"))

    assert told["next"] == "The next sweep finds it."


def test_what_was_taken_up_under_other_settings_is_still_looked_at() -> None:
    told = story(case(row(provider="other"), work(due_at=ahead(seconds=30))), TERMS)

    assert told["next"].startswith("Next look in 30 s")


def test_without_a_living_replica_nothing_happens() -> None:
    told = story(case(replicas=0), TERMS)

    assert told["next"].endswith("No replica is alive: start `kie-reconciler run`.")


def test_a_task_at_work_tells_when_it_is_asked_next() -> None:
    known = work(
        looks=3, looked_at=ago(seconds=10), acknowledged_at=ago(minutes=19), answered_at=ago(seconds=10),
        why="KIE says generating", due_at=ahead(seconds=30), early_at=ahead(seconds=8),
    )  # fmt: skip

    told = story(case(known=known), TERMS)

    assert told["KIE"] == (
        "Asked 3 times, last 10 s ago (2026-03-01 02:59:50 UTC)."
        " KIE knows the task; its last word came 10 s ago (2026-03-01 02:59:50 UTC)."
    )
    assert told["why"] == "KIE says generating."
    assert told["next"] == ("Next look in 30 s (2026-03-01 03:00:30 UTC); from 03:00:08 on when a request is to spare.")


def test_a_finding_brings_what_to_do() -> None:
    known = work(looks=4, looked_at=ago(minutes=1), misses=4, why="KIE: unauthorized", finding="key_rejected",
                 due_at=ago(seconds=40))  # fmt: skip

    told = story(case(known=known), TERMS)

    assert told["KIE"].endswith("KIE has told nothing of the task yet. Attempts in a row that brought nothing: 4.")
    assert told["why"].startswith("KIE: unauthorized. Check KIE_API_KEY")
    assert told["next"] == "Its next look has been due for 40 s: it waits for its turn among the requests to KIE."


def test_only_a_task_that_kie_does_not_know_may_be_another_accounts() -> None:
    known = work(looks=4, looked_at=ago(minutes=1), misses=4, why="KIE does not know the task: record_null")

    assert "KIE has never acknowledged the task: it may belong to another key" in story(case(known=known), TERMS)["KIE"]


def test_half_of_the_results_are_stored_and_their_addresses_die_first() -> None:
    known = work(
        looks=2, looked_at=ago(minutes=5), sources=(THEIRS, THEIRS), completed_at=ago(hours=20),
        acknowledged_at=ago(hours=20), answered_at=ago(minutes=5), media_deadline=ahead(hours=4),
        why="store: timeout", due_at=ahead(minutes=5),
    )  # fmt: skip
    assets = (receipt(0), receipt(1, verified_by=None, stored_at=None))

    told = story(case(row(created_at=ago(hours=19.9)), known, assets=assets), TERMS)

    assert told["results"] == ("KIE finished 20 h ago (2026-02-28 07:00:00 UTC). 1 of 2 results are stored and proven.")
    assert told["clock"] == (
        "First to run out: the time for which KIE's result addresses are good, in 4 h (2026-03-01 07:00:00 UTC)."
    )


def test_what_has_run_out_is_said_before_what_will() -> None:
    known = work(looks=90, looked_at=ago(hours=1), due_at=ahead(hours=1), why="KIE: timeout")

    told = story(case(row(created_at=ago(days=2)), known), TERMS)

    assert told["clock"] == (
        "Run out: our patience (RECONCILER_GIVE_UP_AFTER), 24 h ago (2026-02-28 03:00:00 UTC)."
        " First to run out: the media's life at KIE, in 12 d (2026-03-13 03:00:00 UTC)."
    )
    assert told["next"].endswith("until then it is asked ever more slowly.")


def test_who_holds_it() -> None:
    holder = LeaseHolder(INSTANCE, "worker-2", 77, ago(seconds=3))
    held = case(known=work(lease_until=ahead(seconds=17)), holder=holder)
    lapsed = case(known=work(lease_until=ago(seconds=5), due_at=ago(seconds=20)), holder=holder)
    stranger = case(known=work(lease_until=ahead(seconds=17)), holder=LeaseHolder(INSTANCE, None, None, None))

    assert story(held, TERMS)["holder"] == (
        f"Held by instance {INSTANCE} (on worker-2, pid 77); the lease ends in 17 s (2026-03-01 03:00:17 UTC)"
        " unless it is renewed."
    )
    assert story(held, TERMS)["next"] == "A visit is under way."
    assert story(lapsed, TERMS)["holder"] == (
        f"The lease of instance {INSTANCE} (on worker-2, pid 77) ended 5 s ago (2026-03-01 02:59:55 UTC):"
        " whoever looks next takes it over."
    )
    assert "not on the list of replicas" in story(stranger, TERMS)["holder"]


def test_the_clocks_of_a_new_task_begin_with_it() -> None:
    again = case(row(created_at=ago(days=15)), work(task_since=ago(hours=1), looks=1, looked_at=ago(hours=1)))

    told = story(again, TERMS)

    assert told["clock"] == (
        "First to run out: our patience (RECONCILER_GIVE_UP_AFTER), in 23 h (2026-03-02 02:00:00 UTC)."
    )
    assert "It is failed once KIE answers" not in told["next"]


def test_a_delivered_row_has_nothing_before_it() -> None:
    known = work(sources=(THEIRS,), looks=1, looked_at=ago(minutes=18), delivered_at=ago(minutes=18))
    done = case(row(status="success", asset_url=OURS), known, assets=(receipt(),), replicas=0)

    told = story(done, TERMS)

    assert told["results"].endswith("Delivered 18 min ago (2026-03-01 02:42:00 UTC), 2 min after its creation.")
    assert told["next"] == f"Nothing more: it is delivered, at {OURS}"
    assert "clock" not in told


def test_a_delivery_that_storage_has_lost_is_not_told_as_delivered() -> None:
    known = work(delivered_at=ago(days=40), looks=1, looked_at=ago(days=40))
    events = [PastEvent(kind, ago(days=days), ago(days=days), None) for kind, days in (("succeeded", 40), ("lost", 1))]
    gone = case(row(status="success", asset_url=OURS), known, assets=(receipt(),), events=tuple(events), replicas=1)

    assert (
        story(gone, TERMS)["next"]
        == f"Nothing more: storage has lost what it showed at {OURS}, and KIE has it no more."
    )


def test_a_success_that_points_at_the_provider_is_not_the_end() -> None:
    theirs = case(row(status="success", asset_url=THEIRS), work(due_at=ahead(minutes=1)))

    assert not ended(theirs, TERMS)
    assert ended(case(row(status="success", asset_url=OURS)), TERMS)


def test_a_receipt_tells_ours_where_the_hosts_are_the_same() -> None:
    shared = "https://tempfile.aiquickdraw.com/files/u/image/g_0.png"
    success = row(status="success", asset_url=shared)

    assert ended(case(success, work(), assets=(receipt(),)), TERMS)
    assert not ended(case(success, work(), assets=(receipt(task_id="earlier"),)), TERMS)
    assert not ended(case(success, work(), assets=(receipt(verified_by=None),)), TERMS)


def test_our_own_give_up_goes_on_and_a_refusal_does_not() -> None:
    ours = work(gave_up=True, due_at=ahead(hours=1), why="gave up after 24 h")
    gave_up = case(row(status="failed", error="gave up after 24 h"), ours)
    refused = case(row(status="failed", error="nsfw (422)"), work(why="nsfw (422)"))

    assert story(gave_up, TERMS)["next"] == (
        "Next look in 60 min (2026-03-01 04:00:00 UTC). We gave it up ourselves, so good news still delivers it."
    )
    assert story(refused, TERMS)["next"] == "Nothing more by itself; `kie-reconciler retry g` asks KIE once more."
    assert story(refused, TERMS)["row"].endswith("Its error says: nsfw (422)")


def test_a_cancelled_row_is_the_applications_own() -> None:
    told = story(case(row(status="cancelled")), TERMS)

    assert told["next"] == "Nothing: rows in status cancelled are the application's own."


def test_what_was_noted_about_an_earlier_task_is_not_told_of_this_one() -> None:
    told = story(case(known=work(seen_task="earlier", why="KIE: timeout", looks=9, looked_at=ago(hours=1))), TERMS)

    assert told["KIE"] == "No replica has looked at it since it got this task."
    assert "why" not in told
    assert told["next"] == "The next sweep finds it."


def test_an_open_row_that_rests_for_good_can_be_retried() -> None:
    told = story(case(row(created_at=ago(days=15)), work(why="nothing left to fetch after 14 days")), TERMS)

    assert told["next"] == "No look is planned; `kie-reconciler retry g` makes one."


def test_without_a_task_there_is_nothing_to_ask() -> None:
    told = story(case(row(task_id=None), work(seen_task=None, due_at=ahead(hours=1))), TERMS)

    assert told["KIE"] == "There is no task id, so there is nothing to ask about."
    assert "task not known yet" in told["row"]


def test_what_happened_is_told_in_its_order() -> None:
    told = lines(
        case(
            events=(
                PastEvent("failed", ago(hours=2), ago(hours=1), None),
                PastEvent("failed", ago(days=4), None, ago(hours=20)),
                PastEvent("recovered", ago(minutes=1), None, None),
            ),
            callbacks=(ago(minutes=30),),
            assets=(receipt(stored_at=ago(minutes=2)), receipt(1, verified_by=None, stored_at=None)),
        )
    )

    assert told == [
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
        (row(), None, "left", "not one of ours: its provider or its task id says so"),
        (row(status="cancelled"), None, "left", "status cancelled is the application's own"),
        (row(), work(lease_until=ahead(seconds=9)), "working", "another instance holds it; not asked yet"),
        (
            row(),
            work(seen_task="earlier", why="old", lease_until=ahead(seconds=9)),
            "working",
            "another instance holds it; not asked yet",
        ),
    ],
)
def test_how_a_generation_stands(generation: ApplicationRow, known: Bookkeeping | None, word: str, why: str) -> None:
    told = outcome(case(generation, known), TERMS)

    assert (told.word, told.why) == (word, why)
    assert told.settled == (word in ("delivered", "failed"))
