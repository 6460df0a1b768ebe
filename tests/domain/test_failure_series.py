"""Failures in a row are counted for each side by itself, and end when that side works."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.absorb import absorb
from reconciler.domain.failures import series
from reconciler.domain.failures.series import FailureSeries
from reconciler.domain.model import Asset, Row
from reconciler.domain.observations import (
    DeliveryFailed,
    DeliveryPostponed,
    Failed,
    Observation,
    Ready,
    Stored,
    TaskIdentified,
    TaskNotIdentified,
    TaskUnknown,
    Unreachable,
    Working,
)
from tests.domain.worlds import NOW, THEIRS, row_in_flight

SECOND = timedelta(seconds=1)
FAILING = tuple(FailureSeries(side, 2, NOW - SECOND, "before") for side in ("kie", "source", "storage"))


def counts(row: Row) -> dict[str, int]:
    return {one.side: one.count for one in row.failing}


def after(*observations: Observation, **facts: object) -> Row:
    row = row_in_flight(sources=(THEIRS,), **facts)
    for n, observation in enumerate(observations):
        row = absorb(row, observation, NOW + n * SECOND)
    return row


def test_a_failed_store_never_makes_kie_look_silent() -> None:
    row = after(*[DeliveryFailed((), "store", "storage_5xx", "storage failed: 544")] * 5)

    assert row.failing == (FailureSeries("storage", 5, NOW, "store: storage_5xx, storage failed: 544"),)
    assert row.failures == 5


@pytest.mark.parametrize(
    ("observation", "ended"),
    [
        (Working("generating"), {"kie"}),
        (Ready(()), {"kie"}),
        (Failed("refused"), {"kie"}),
        (TaskUnknown("no_data"), {"kie"}),
        (TaskIdentified("task"), {"kie"}),
        (TaskNotIdentified("another"), {"kie"}),
        (Unreachable("unauthorized"), {"kie"}),
        (Unreachable("rate_limited", request_sent=False), set()),
        (Stored(()), {"source", "storage"}),
        (DeliveryFailed((), "fetch", "database_away"), set()),
        (DeliveryFailed((), "fetch", "host_unlisted", permanent=True), set()),
        (DeliveryFailed((), "store", "database_away"), {"source"}),
        (DeliveryPostponed((), "no_room", "", 2.0), set()),
    ],
)
def test_a_series_ends_when_its_own_side_works(observation: Observation, ended: set[str]) -> None:
    assert counts(after(observation, failing=FAILING)) == {
        side: 2 for side in ("kie", "source", "storage") if side not in ended
    }


@pytest.mark.parametrize(
    ("observation", "side", "others"),
    [
        (Unreachable("timeout"), "kie", {"source": 2, "storage": 2}),
        (TaskNotIdentified("not asked", all_answered=False), "kie", {"source": 2, "storage": 2}),
        (DeliveryFailed((), "fetch", "timeout"), "source", {"kie": 2, "storage": 2}),
        (DeliveryFailed((), "fetch", "http_404", gone=True, permanent=True), "source", {"kie": 2, "storage": 2}),
        (DeliveryFailed((), "store", "timeout"), "storage", {"kie": 2}),
        (DeliveryFailed((), "prove", "proof_failed"), "storage", {"kie": 2}),
    ],
)
def test_a_failure_extends_the_series_of_its_own_side_only(
    observation: DeliveryFailed | Unreachable, side: str, others: dict[str, int]
) -> None:
    row = after(observation, failing=FAILING)

    assert counts(row) == {**others, side: 3}
    assert {one.since for one in row.failing} == {NOW - SECOND}


def test_a_result_that_was_stored_ends_the_series_of_storage_before_the_next_one_fails() -> None:
    stored = Asset(0, "path", "image/png", 1, "sha", "md5", verified_by="etag-md5")
    begun = replace(stored, verified_by=None)

    row = after(DeliveryFailed((stored,), "fetch", "timeout"), assets=(begun,), failing=FAILING)

    assert counts(row) == {"kie": 2, "source": 1}


@pytest.mark.parametrize(
    ("observation", "side"),
    [
        (Unreachable("path_silent", "says nothing", request_sent=False, silent_for=20.0), "kie"),
        (DeliveryPostponed((), "host_silent", "says nothing", 5.0), "source"),
    ],
)
def test_an_open_breaker_counts_at_once_because_other_rows_have_failed(observation: Observation, side: str) -> None:
    row = after(observation)

    assert counts(row) == {side: series.SEVERAL}
    assert row.failures == 0


def test_what_is_kept_is_read_back_and_never_begins_in_the_future() -> None:
    kept = series.to_json(FAILING)

    assert series.from_json(kept, NOW) == FAILING
    assert {one.since for one in series.from_json(kept, NOW - timedelta(hours=1))} == {NOW - timedelta(hours=1)}
    assert series.from_json({**kept, "a side of a later version": kept["kie"]}, NOW) == FAILING


def test_a_long_sentence_is_cut() -> None:
    (one,) = series.extend((), "storage", "x" * 999, NOW)
    assert one.reason == "x" * 200
