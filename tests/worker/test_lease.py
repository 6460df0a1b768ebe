"""How long bytes may flow under a lease, by this process's clock."""

from __future__ import annotations

import uuid

import pytest

from reconciler.domain.model import Trigger
from reconciler.postgres.claims.claims import Claim
from reconciler.worker import lease as module
from reconciler.worker.lease import Lease


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def drawn(clock: Clock, *, term: float = 30.0) -> Lease:
    return Lease(Claim("g", uuid.uuid4(), 0, Trigger.POLL), term, clock.now)


def test_bytes_stop_five_seconds_before_the_lease_ends(clock: Clock) -> None:
    lease = drawn(clock)
    clock.now += 24.9
    assert lease.ours()
    clock.now += 0.2
    assert not lease.ours()
    assert lease.left() == pytest.approx(4.9)


def test_of_a_short_lease_two_thirds_can_be_used(clock: Clock) -> None:
    lease = drawn(clock, term=3.0)
    clock.now += 1.9
    assert lease.ours()
    clock.now += 0.2
    assert not lease.ours()


def test_a_renewal_counts_from_when_it_was_sent_and_not_from_its_answer(clock: Clock) -> None:
    lease = drawn(clock)
    clock.now += 20
    sent = clock.now
    clock.now += 4
    lease.prolong(sent)
    assert lease.left() == pytest.approx(26)


def test_nothing_is_left_of_a_lease_that_is_known_to_be_lost(clock: Clock) -> None:
    lease = drawn(clock)
    lease.lost = True
    assert (lease.left(), lease.ours()) == (0, False)
