"""What moves, with its rates: of a replica's last two words, of a whole stage where there is but one, never guessed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from reconciler.cli.render.top import TopScreen, page
from reconciler.operations.throughput import Throughput, ThroughputMeter
from reconciler.postgres.reports.activity import (
    ActiveTransfer,
    ActivitySnapshot,
    KeyBacklog,
    ReplicaActivity,
    WaitingGeneration,
)

BEGAN = datetime(2026, 7, 1, 12, tzinfo=UTC)
FIRST = ReplicaActivity(UUID(int=1), "one", 11, "1.0", True, BEGAN)


def at(seconds: float, *replicas: ReplicaActivity, **more: Any) -> ActivitySnapshot:
    """A moment so many seconds after the beginning."""
    return ActivitySnapshot(
        BEGAN + timedelta(seconds=seconds),
        replicas,
        more.get("keys", ()),
        more.get("overdue", 0),
        more.get("waiting", ()),
    )


def told(replica: ReplicaActivity, seconds: float, *transfers: ActiveTransfer, **counts: int) -> ReplicaActivity:
    """What a replica said so many seconds after the beginning."""
    return replace(replica, told_at=BEGAN + timedelta(seconds=seconds), transfers=transfers, **counts)


def fetching(done: int, seconds: float, stage: str = "fetch", generation_id: str = "film") -> ActiveTransfer:
    return ActiveTransfer(generation_id, 0, stage, done, 1_000_000, seconds)


def rates(motion: Throughput) -> list[float | None]:
    return [one.bytes_per_second for one in motion.transfers]


def test_what_a_replica_does_a_second_is_unknown_until_it_has_spoken_twice() -> None:
    motions = ThroughputMeter()
    (first,) = motions.at(at(1, told(FIRST, 0, polls=100, deliveries=7))).replicas
    (second,) = motions.at(at(3, told(FIRST, 2, polls=110, deliveries=8, downloaded=3000, uploaded=2000))).replicas

    assert (first.polls_per_second, first.downloaded_per_second) == (None, None)
    assert (second.polls_per_second, second.deliveries_per_second) == (5.0, 0.5)
    assert (second.downloaded_per_second, second.uploaded_per_second) == (1500.0, 1000.0)


def test_a_replica_that_has_said_nothing_new_keeps_its_rates() -> None:
    motions = ThroughputMeter()
    motions.at(at(0, told(FIRST, 0, polls=100)))
    last = told(FIRST, 1, polls=110)
    for seconds in (1, 2, 3):
        assert motions.at(at(seconds, last)).replicas[0].polls_per_second == 10.0


def test_each_replica_is_measured_by_its_own_words_alone() -> None:
    motions = ThroughputMeter()
    other = replace(FIRST, instance=UUID(int=2), host="two", leads=False)
    motions.at(at(0, told(FIRST, 0, polls=100), told(other, 0, polls=7)))
    found = motions.at(at(2, told(FIRST, 1, polls=104), told(other, 2, polls=9))).replicas

    assert [(one.host, one.polls_per_second) for one in found] == [("one", 4.0), ("two", 1.0)]


def test_a_replica_that_began_anew_has_no_rates_of_its_predecessor() -> None:
    motions = ThroughputMeter()
    motions.at(at(0, told(FIRST, 0, polls=100)))
    (anew,) = motions.at(at(1, told(replace(FIRST, instance=UUID(int=9)), 1, polls=3))).replicas
    assert anew.polls_per_second is None


def test_a_transfers_rate_is_of_its_whole_stage_at_first_and_then_of_the_last_two_words() -> None:
    motions = ThroughputMeter()
    assert rates(motions.at(at(0, told(FIRST, 0, fetching(200_000, 4.0))))) == [50_000.0]
    assert rates(motions.at(at(2, told(FIRST, 2, fetching(260_000, 6.0))))) == [30_000.0]


@pytest.mark.parametrize(
    ("now", "rate"),
    [
        (fetching(80_000, 8.0, stage="store"), 10_000.0),
        (fetching(80_000, 8.0, generation_id="other"), 10_000.0),
        (fetching(80_000, 0.5), 160_000.0),
    ],
    ids=["the next stage", "another generation", "the same once more"],
)
def test_what_has_begun_since_is_not_measured_by_what_went_before(now: ActiveTransfer, rate: float) -> None:
    motions = ThroughputMeter()
    motions.at(at(0, told(FIRST, 0, fetching(50_000, 4.0))))
    assert rates(motions.at(at(1, told(FIRST, 1, now)))) == [rate]


def test_a_transfer_that_has_just_begun_has_no_rate() -> None:
    assert rates(ThroughputMeter().at(at(0, told(FIRST, 0, fetching(0, 0.0))))) == [None]


def everything() -> Throughput:
    waits = WaitingGeneration("\x1b[2Jrow[red]", "task", 42.0, 3, None, None)
    proving = ActiveTransfer("film", 1, "prove", 0, 2_000_000, 3.0)
    moment = at(
        5,
        told(FIRST, 3, fetching(250_000, 5.0), ActiveTransfer("song", 1, "store", 10, None, 1.0), proving, held=4),
        keys=(KeyBacklog("0123456789abcdef", 1.5), KeyBacklog("fedcba", 0.0)),
        overdue=12,
        waiting=(waits,),
    )
    return ThroughputMeter().at(moment)


def test_the_view_tells_what_moves_where_how_fast_and_who_waits() -> None:
    console = Console(width=160, highlight=False)
    with console.capture() as caught:
        console.print(page(everything()))
    shown = [" ".join(line.split()) for line in caught.get().splitlines()]

    assert shown[0] == (
        "12:00:05 UTC 3 transfers, 12 waiting for a turn; polls -/s, key 01234567 booked for 1.5 s, key fedcba free"
    )
    assert "one pid 11 leads 2 s ago 4 - - - -" in shown
    assert any(line.startswith("film 0 fetch 250.0 kB 1.0 MB 50.0 kB/s 5 s") for line in shown)
    assert any(line.startswith("song 1 store 10 bytes ? 10 bytes/s 1 s") for line in shown)
    assert "film 1 prove 2.0 MB 3 s" in shown
    assert " [2Jrow[red] 42 s 3 not looked at yet".strip() in shown
    assert "\x1b" not in caught.get()


def test_where_nobody_is_alive_the_view_says_what_to_start() -> None:
    console = Console(width=160)
    with console.capture() as caught:
        console.print(page(ThroughputMeter().at(at(0))))
    assert "kie-reconciler run" in caught.get()


def test_as_json_a_moment_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with TopScreen(as_json=True, once=False) as screen:
        screen.show(everything())
        screen.excuse("the database is away")
        screen.show(everything())
    caught = capsys.readouterr()
    first, second = (json.loads(line) for line in caught.out.splitlines())
    assert first == second
    assert first["transfers"][0]["bytes_per_second"] == 50_000.0
    assert first["at"] == "2026-07-01T12:00:05+00:00"
    assert caught.err == "kie-reconciler: the database is away; trying again\n"
