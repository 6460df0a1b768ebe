"""How long a lease is trusted, by the clock of this process."""

from __future__ import annotations

import uuid

import pytest

from reconciler.domain.model import Trigger
from reconciler.postgres.claims.claims import Claim
from reconciler.worker import lease as module
from reconciler.worker.lease import Lease


class Clock:
    """An uptime that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def uptime(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "boottime", clock.uptime)
    return clock


def held(clock: Clock, *, term: float = 30.0) -> Lease:
    return Lease(Claim("g", uuid.uuid4(), 0, Trigger.POLL), term, clock.now)


def test_bytes_stop_five_seconds_before_the_lease_ends(clock: Clock) -> None:
    lease = held(clock)
    clock.now += 24.9
    assert lease.trusted()
    clock.now += 0.2
    assert not lease.trusted()
    assert lease.remaining() == pytest.approx(4.9)


def test_a_short_lease_is_trusted_for_two_thirds_of_its_term(clock: Clock) -> None:
    lease = held(clock, term=3.0)
    clock.now += 1.9
    assert lease.trusted()
    clock.now += 0.2
    assert not lease.trusted()


def test_a_renewal_counts_from_when_it_was_sent_and_not_from_its_answer(clock: Clock) -> None:
    lease = held(clock)
    clock.now += 20
    sent = clock.now
    clock.now += 4
    lease.sent_at = sent
    assert lease.remaining() == pytest.approx(26)


def test_a_lost_lease_has_no_time_left_and_is_not_trusted(clock: Clock) -> None:
    lease = held(clock)
    lease.lost = True
    assert (lease.remaining(), lease.trusted()) == (0, False)


def test_the_worker_learns_that_a_visit_needs_no_more_requests(clock: Clock) -> None:
    calls: list[str] = []
    lease = held(clock)
    lease.on_polled()
    lease.on_polled = lambda: calls.append("polled")
    lease.on_polled()
    assert calls == ["polled"]
