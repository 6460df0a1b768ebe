"""What the supervisor is sent, and when: each change of the daemon's health once."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from reconciler.health import DRAINING, Health
from reconciler.systemd.notify import CLOSE_SECONDS, SupervisorSocket, SupervisorUpdates


@dataclass
class RecordingSocket(SupervisorSocket):
    """A socket that records what is sent; the supervisor receives nothing while `away`."""

    watchdog: float | None = None
    away: bool = False
    sent: list[dict[str, str | int]] = field(default_factory=list)

    def send(self, **values: str | int) -> bool:
        if not self.away:
            self.sent.append(values)
        return not self.away


@dataclass
class Stage:
    """A daemon's health, and what the supervisor is sent about it."""

    socket: RecordingSocket
    health: Health
    stopping: list[bool]
    updates: SupervisorUpdates
    pulse: float = 1.0

    def sent(self) -> list[dict[str, str | int]]:
        """What one update sends."""
        self.socket.sent.clear()
        self.updates.update()
        return list(self.socket.sent)

    def working(self) -> None:
        self.health.reason = None
        self.updates.activity, self.updates.swept = lambda: "2 in hand", lambda: True


@pytest.fixture
def stage() -> Stage:
    socket, health, stopping = RecordingSocket(), Health(patience=1), [False]
    updates = SupervisorUpdates(socket, health, lambda: stopping[0], drain_seconds=25)
    created = Stage(socket, health, stopping, updates)
    health.pulse = lambda: created.pulse
    return created


def test_ready_is_sent_once_and_only_after_the_first_sweep(stage: Stage) -> None:
    stage.working()
    stage.updates.swept = lambda: False
    assert stage.sent() == [{"STATUS": "the first sweep is under way"}]
    stage.updates.swept = lambda: True
    assert stage.sent() == [{"READY": 1, "STATUS": "2 in hand"}]
    assert all("READY" not in values for values in stage.sent())


def test_a_reason_to_wait_is_sent_once_and_ready_is_not_sent(stage: Stage) -> None:
    stage.working()
    stage.health.reason = "the database is away: OSError"
    assert stage.sent() == [{"STATUS": "waiting: the database is away: OSError"}]
    assert stage.sent() == []


def test_a_temporary_trouble_replaces_the_status_until_it_ends(stage: Stage) -> None:
    stage.working()
    stage.sent()
    stage.health.trouble = lambda: "the database is busy"
    assert stage.sent() == [{"STATUS": "waiting: the database is busy"}]
    stage.health.trouble = lambda: None
    assert stage.sent() == [{"STATUS": "2 in hand"}]


def test_a_value_that_was_not_received_is_sent_again(stage: Stage) -> None:
    stage.working()
    stage.socket.away = True
    assert stage.sent() == []
    stage.socket.away = False
    assert stage.sent() == [{"READY": 1, "STATUS": "2 in hand"}]


def test_only_a_moving_pulse_feeds_the_watchdog(stage: Stage) -> None:
    stage.working()
    stage.socket.watchdog = 60.0
    fed = []
    for stage.pulse in (1.0, 1.0, 2.0, 2.0, 2.0):
        fed.append({"WATCHDOG": 1} in stage.sent())
    assert fed == [True, False, True, False, False]


def test_without_a_watchdog_no_keep_alive_is_sent(stage: Stage) -> None:
    stage.working()
    assert not any("WATCHDOG" in values for values in stage.sent())


def test_stopping_is_sent_once_with_the_time_that_the_drain_may_take(stage: Stage) -> None:
    stage.working()
    stage.sent()
    stage.health.reason, stage.stopping[0] = DRAINING, True
    microseconds = (25 + CLOSE_SECONDS) * 1e6
    assert stage.sent() == [{"STOPPING": 1, "EXTEND_TIMEOUT_USEC": microseconds, "STATUS": "draining, 2 in hand"}]
    stage.updates.activity = lambda: "1 in hand"
    assert stage.sent() == [{"STATUS": "draining, 1 in hand"}]


def test_a_restart_of_the_parts_is_not_reported_as_stopping(stage: Stage) -> None:
    stage.working()
    stage.sent()
    stage.health.reason = DRAINING
    assert not any("STOPPING" in values for values in stage.sent())


async def test_the_updates_run_without_a_supervisor() -> None:
    supervisor = SupervisorSocket("")
    async with SupervisorUpdates(supervisor, Health(patience=1), lambda: False, drain_seconds=1).running():
        assert not supervisor.listens
