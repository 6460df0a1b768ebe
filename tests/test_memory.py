"""What deliveries leave of memory goes back to the kernel."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import weakref

import pytest

from reconciler.memory import give_back

MIB = 1 << 20

# In a process of its own: what another test has left lying about would be given back as well.
HOLES = f"""
import psutil
from reconciler.memory import give_back

bodies = [b"x" * 100_000 for _ in range(800)]
between = [*bodies[::40], bodies[-1]]
del bodies
resident = psutil.Process().memory_info().rss
give_back()
print((resident - psutil.Process().memory_info().rss) // {MIB})
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="a C library without malloc_trim")
def test_the_holes_between_what_lives_on_are_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 60


def test_old_cycles_that_nobody_holds_are_freed() -> None:
    class Node:
        other: Node

    one, two = Node(), Node()
    one.other, two.other = two, one
    gc.collect()
    gone = weakref.ref(one)
    del one, two
    give_back()
    assert gone() is None
