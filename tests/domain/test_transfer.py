"""A transfer survives its report, and its rate is that of the stage under way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.domain.transfer import Transfer

NOW = Transfer(instance="replica", generation_id="g", n=1, stage="store", done=3_000, total=9_000, seconds=3.0)


def test_a_report_brings_the_transfer_back_with_the_replica_that_made_it() -> None:
    report = replace(NOW, instance=None).to_json()

    assert Transfer.from_json(report, instance="replica") == NOW


def test_fields_that_another_version_reports_are_ignored() -> None:
    assert Transfer.from_json({**NOW.to_json(), "colour": "green"}, instance="replica") == NOW


def test_the_rate_is_that_of_the_interval_where_the_same_stage_was_under_way() -> None:
    earlier = replace(NOW, done=1_000, seconds=1.0)

    assert NOW.measured([earlier], 2.0).bytes_per_second == 1_000.0


@pytest.mark.parametrize(
    "earlier",
    [
        replace(NOW, generation_id="another", done=0, seconds=1.0),
        replace(NOW, n=0, done=0, seconds=1.0),
        replace(NOW, stage="fetch", done=0, seconds=1.0),
        replace(NOW, done=0, seconds=5.0),
        replace(NOW, done=8_000, seconds=1.0),
    ],
    ids=["another generation", "another result", "another stage", "begun anew", "sent again"],
)
def test_else_the_rate_is_that_of_the_stage_since_it_began(earlier: Transfer) -> None:
    assert NOW.measured([earlier], 1.0).bytes_per_second == 1_000.0


def test_a_stage_that_has_just_begun_has_no_rate() -> None:
    assert replace(NOW, seconds=0.0).measured([], 1.0).bytes_per_second is None
