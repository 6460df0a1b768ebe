"""The clock of uptime: it counts a suspension of this machine, which the monotonic clock does not."""

from __future__ import annotations

import time

import pytest

from reconciler.boottime import boottime


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no such clock")
def test_it_reads_the_clock_that_runs_on_while_the_machine_is_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = boottime()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_it_only_grows() -> None:
    first = boottime()
    assert boottime() >= first
