"""Seconds that pass on this machine, those of a suspension included: no setting of any clock changes them.

`time.monotonic` stands still while a machine is suspended. Use it where only the running of this process counts
(timeouts, the pulse of the loop). Use this clock where time passes elsewhere, too: for leases, and beside the
database's clock.
"""

import time
from typing import Final

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Return the seconds since this machine started; where a system has no such clock, the monotonic time."""
    return time.clock_gettime(_CLOCK)
