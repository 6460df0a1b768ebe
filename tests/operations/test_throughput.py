"""Rates come from a replica's last two reports, or from a whole stage where there is one report; none is guessed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from reconciler.cli.render.top import TopScreen, page
from reconciler.domain.transfer import Transfer
from reconciler.operations.throughput import Throughput, ThroughputMeter
from reconciler.postgres.reports.activity import ActivitySnapshot, KeyBacklog, ReplicaActivity, WaitingGeneration

BEGAN = datetime(2026, 7, 1, 12, tzinfo=UTC)
FIRST = ReplicaActivity(UUID(int=1), "one", 11, "1.0", True, BEGAN)


def at(seconds: float, *replicas: ReplicaActivity, **more: Any) -> ActivitySnapshot:
    """A snapshot so many seconds after the beginning."""
    return ActivitySnapshot(
        BEGAN + timedelta(seconds=seconds),
        replicas,
        more.get("keys", ()),
        more.get("overdue", 0),
        more.get("waiting", ()),
    )


def reported(replica: ReplicaActivity, seconds: float, *transfers: Transfer, **counts: int) -> ReplicaActivity:
    """What a replica reported so many seconds after the beginning."""
    return replace(replica, told_at=BEGAN + timedelta(seconds=seconds), transfers=transfers, **counts)


def fetching(done: int, seconds: float, stage: str = "fetch", generation_id: str = "film") -> Transfer:
    return Transfer(generation_id=generation_id, n=0, stage=stage, done=done, total=1_000_000, seconds=seconds)


def rates(throughput: Throughput) -> list[float | None]:
    return [transfer.bytes_per_second for transfer in throughput.transfers]


def test_a_replica_has_no_rates_before_its_second_report() -> None:
    meter = ThroughputMeter()
    (first,) = meter.at(at(1, reported(FIRST, 0, polls=100, deliveries=7))).replicas
    (second,) = meter.at(at(3, reported(FIRST, 2, polls=110, deliveries=8, downloaded=3000, uploaded=2000))).replicas

    assert (first.polls_per_second, first.downloaded_per_second) == (None, None)
    assert (second.polls_per_second, second.deliveries_per_second) == (5.0, 0.5)
    assert (second.downloaded_per_second, second.uploaded_per_second) == (1500.0, 1000.0)


def test_a_replica_without_a_new_report_keeps_its_rates() -> None:
    meter = ThroughputMeter()
    meter.at(at(0, reported(FIRST, 0, polls=100)))
    last = reported(FIRST, 1, polls=110)
    for seconds in (1, 2, 3):
        assert meter.at(at(seconds, last)).replicas[0].polls_per_second == 10.0


def test_each_replica_is_measured_by_its_own_reports_alone() -> None:
    meter = ThroughputMeter()
    other = replace(FIRST, instance=UUID(int=2), host="two", leads=False)
    meter.at(at(0, reported(FIRST, 0, polls=100), reported(other, 0, polls=7)))
    replicas = meter.at(at(2, reported(FIRST, 1, polls=104), reported(other, 2, polls=9))).replicas

    assert [(rates.host, rates.polls_per_second) for rates in replicas] == [("one", 4.0), ("two", 1.0)]


def test_a_restarted_replica_does_not_inherit_rates() -> None:
    meter = ThroughputMeter()
    meter.at(at(0, reported(FIRST, 0, polls=100)))
    (restarted,) = meter.at(at(1, reported(replace(FIRST, instance=UUID(int=9)), 1, polls=3))).replicas
    assert restarted.polls_per_second is None


def test_a_transfers_rate_is_of_its_whole_stage_at_first_and_then_of_the_last_two_reports() -> None:
    meter = ThroughputMeter()
    assert rates(meter.at(at(0, reported(FIRST, 0, fetching(200_000, 4.0))))) == [50_000.0]
    assert rates(meter.at(at(2, reported(FIRST, 2, fetching(260_000, 6.0))))) == [30_000.0]


@pytest.mark.parametrize(
    ("now", "rate"),
    [
        (fetching(80_000, 8.0, stage="store"), 10_000.0),
        (fetching(80_000, 8.0, generation_id="other"), 10_000.0),
        (fetching(80_000, 0.5), 160_000.0),
    ],
    ids=["the next stage", "another generation", "the same stage begun again"],
)
def test_a_stage_that_began_since_the_last_report_is_measured_from_its_beginning(now: Transfer, rate: float) -> None:
    meter = ThroughputMeter()
    meter.at(at(0, reported(FIRST, 0, fetching(50_000, 4.0))))
    assert rates(meter.at(at(1, reported(FIRST, 1, now)))) == [rate]


def test_a_transfer_that_has_just_begun_has_no_rate() -> None:
    assert rates(ThroughputMeter().at(at(0, reported(FIRST, 0, fetching(0, 0.0))))) == [None]


def everything() -> Throughput:
    waits = WaitingGeneration("\x1b[2Jrow[red]", "task", 42.0, 3, None, None)
    proving = Transfer(generation_id="film", n=1, stage="prove", total=2_000_000, seconds=3.0)
    storing = Transfer(generation_id="song", n=1, stage="store", done=10, seconds=1.0)
    snapshot = at(
        5,
        reported(FIRST, 3, fetching(250_000, 5.0), storing, proving, held=4),
        keys=(KeyBacklog("0123456789abcdef", 1.5), KeyBacklog("fedcba", 0.0)),
        overdue=12,
        waiting=(waits,),
    )
    return ThroughputMeter().at(snapshot)


def test_the_view_shows_what_moves_where_how_fast_and_what_waits() -> None:
    console = Console(width=160, highlight=False)
    with console.capture() as caught:
        console.print(page(everything()))
    lines = [" ".join(line.split()) for line in caught.get().splitlines()]

    assert lines[0] == (
        "12:00:05 UTC 3 transfers, 12 waiting for a turn; polls -/s, key 01234567 booked for 1.5 s, key fedcba free"
    )
    assert "one pid 11 leads 2 s ago 4 - - - -" in lines
    assert any(line.startswith("film 0 fetch 250.0 kB 1.0 MB 50.0 kB/s 5 s") for line in lines)
    assert any(line.startswith("song 1 store 10 bytes ? 10 bytes/s 1 s") for line in lines)
    assert "film 1 prove 2.0 MB 3 s" in lines
    assert " [2Jrow[red] 42 s 3 not polled yet".strip() in lines
    assert "\x1b" not in caught.get()


def test_without_a_live_replica_the_view_says_what_to_start() -> None:
    console = Console(width=160)
    with console.capture() as caught:
        console.print(page(ThroughputMeter().at(at(0))))
    assert "kie-reconciler run" in caught.get()


def test_as_json_a_snapshot_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_transfer_read_from_a_report_is_the_one_that_was_reported() -> None:
    report = json.loads(json.dumps(fetching(250_000, 5.0).to_json()))
    assert list(report) == ["generation_id", "n", "stage", "done", "total", "seconds"]
    assert Transfer.from_json({**report, "added_later": 1}, instance="one") == replace(
        fetching(250_000, 5.0), instance="one"
    )
