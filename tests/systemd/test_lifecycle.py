"""What a supervisor is told, and when: by the health alone, each thing once."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from reconciler.health import DRAINING, Health
from reconciler.systemd.lifecycle import CLOSING, SupervisorUpdates
from reconciler.systemd.notify import SupervisorSocket


@dataclass
class Heard(SupervisorSocket):
    """A supervisor that keeps what it is told; it does not hear while `away`."""

    watchdog: float | None = None
    away: bool = False
    said: list[dict[str, str | int]] = field(default_factory=list)

    def tell(self, **said: str | int) -> bool:
        if not self.away:
            self.said.append(said)
        return not self.away


@dataclass
class Stage:
    """A daemon's health, and what is said of it."""

    heard: Heard
    health: Health
    ending: list[bool]
    line: SupervisorUpdates
    pulse: float = 1.0

    def told(self) -> list[dict[str, str | int]]:
        """What one look tells."""
        self.heard.said.clear()
        self.line.look()
        return list(self.heard.said)

    def working(self) -> None:
        self.health.reason = None
        self.line.doing, self.line.swept = lambda: "2 in hand", lambda: True


@pytest.fixture
def stage() -> Stage:
    heard, health, ending = Heard(), Health(patience=1), [False]
    made = Stage(heard, health, ending, SupervisorUpdates(heard, health, lambda: ending[0], drain_seconds=25))
    health.pulse = lambda: made.pulse
    return made


def test_it_is_ready_after_its_first_sweep_and_says_so_once(stage: Stage) -> None:
    stage.working()
    stage.line.swept = lambda: False
    assert stage.told() == [{"STATUS": "the first sweep is under way"}]
    stage.line.swept = lambda: True
    assert stage.told() == [{"READY": 1, "STATUS": "2 in hand"}]
    assert all("READY" not in said for said in stage.told())


def test_what_it_waits_for_is_told_once_and_it_is_not_ready(stage: Stage) -> None:
    stage.working()
    stage.health.reason = "the database is away: OSError"
    assert stage.told() == [{"STATUS": "waiting: the database is away: OSError"}]
    assert stage.told() == []


def test_a_trouble_in_the_middle_is_told_and_taken_back(stage: Stage) -> None:
    stage.working()
    stage.told()
    stage.health.trouble = lambda: "the database is busy"
    assert stage.told() == [{"STATUS": "waiting: the database is busy"}]
    stage.health.trouble = lambda: None
    assert stage.told() == [{"STATUS": "2 in hand"}]


def test_what_the_supervisor_did_not_hear_is_told_again(stage: Stage) -> None:
    stage.working()
    stage.heard.away = True
    assert stage.told() == []
    stage.heard.away = False
    assert stage.told() == [{"READY": 1, "STATUS": "2 in hand"}]


def test_the_watchdog_is_fed_by_a_pulse_that_moves_and_by_nothing_else(stage: Stage) -> None:
    stage.working()
    stage.heard.watchdog = 60.0
    fed = []
    for stage.pulse in (1.0, 1.0, 2.0, 2.0, 2.0):
        fed.append({"WATCHDOG": 1} in stage.told())
    assert fed == [True, False, True, False, False]


def test_nobody_is_fed_who_does_not_watch(stage: Stage) -> None:
    stage.working()
    assert not any("WATCHDOG" in said for said in stage.told())


def test_an_end_asks_once_for_the_time_that_the_drain_may_take(stage: Stage) -> None:
    stage.working()
    stage.told()
    stage.health.reason, stage.ending[0] = DRAINING, True
    microseconds = (25 + CLOSING) * 1e6
    assert stage.told() == [{"STOPPING": 1, "EXTEND_TIMEOUT_USEC": microseconds, "STATUS": "draining, 2 in hand"}]
    stage.line.doing = lambda: "1 in hand"
    assert stage.told() == [{"STATUS": "draining, 1 in hand"}]


def test_parts_that_are_built_anew_are_no_end(stage: Stage) -> None:
    stage.working()
    stage.told()
    stage.health.reason = DRAINING
    assert not any("STOPPING" in said for said in stage.told())


async def test_it_lives_where_nobody_listens() -> None:
    supervisor = SupervisorSocket("")
    async with SupervisorUpdates(supervisor, Health(patience=1), lambda: False, drain_seconds=1).held():
        assert not supervisor.listens
