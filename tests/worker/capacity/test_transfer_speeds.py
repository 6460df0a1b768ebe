"""Which transfers count as slow: those much slower than the others, and never before five seconds."""

from __future__ import annotations

import pytest

from reconciler.domain.transfer import Transfer
from reconciler.worker.capacity.transfer_speeds import TransferSpeeds

MIB = 1 << 20


def transfer(seconds: float, done: int, stage: str = "fetch") -> Transfer:
    return Transfer(generation_id="g", n=0, stage=stage, done=done, seconds=seconds)


@pytest.mark.parametrize(
    ("under_way", "slow"),
    [
        (transfer(6.0, 6 * 40_000), True),
        (transfer(6.0, 0), True),
        (transfer(4.9, 0), False),
        (transfer(6.0, 6 * 100_000), False),
        (transfer(6.0, 0, "store"), True),
        (transfer(60.0, 0, "prove"), False),
    ],
)
def test_before_any_has_ended_forty_kilobytes_a_second_are_slow(under_way: Transfer, slow: bool) -> None:
    assert TransferSpeeds().is_slow(under_way) == slow


def test_where_all_are_slow_none_is_slower_than_the_others() -> None:
    speeds = TransferSpeeds()
    for _ in range(50):
        speeds.ended(transfer(10.0, 400_000))
    assert not speeds.is_slow(transfer(10.0, 400_000))
    assert speeds.is_slow(transfer(10.0, 50_000))


def test_where_the_others_are_fast_a_megabyte_a_second_is_fast_enough() -> None:
    speeds = TransferSpeeds()
    for _ in range(50):
        speeds.ended(transfer(1.0, 100 * MIB))
    assert not speeds.is_slow(transfer(10.0, 11 * MIB))
    assert speeds.is_slow(transfer(10.0, 5 * MIB))


def test_short_transfers_say_nothing_about_rates() -> None:
    speeds = TransferSpeeds()
    for _ in range(50):
        speeds.ended(transfer(1.0, 10_000))
    assert speeds.is_slow(transfer(10.0, 400_000))


def test_uploads_are_compared_with_uploads() -> None:
    speeds = TransferSpeeds()
    for _ in range(50):
        speeds.ended(transfer(10.0, 400_000, "store"))
    assert not speeds.is_slow(transfer(10.0, 400_000, "store"))
    assert speeds.is_slow(transfer(10.0, 400_000, "fetch"))
