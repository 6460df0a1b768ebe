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


GLIBC = hasattr(ctypes.CDLL(None), "malloc_trim")

# A heap of a thread's own lies at a multiple of 64 MiB, the process's own behind the program.
THREADS = """
import ctypes, threading
from reconciler.memory import economize

economize()
malloc, together, where = ctypes.CDLL(None).malloc, threading.Barrier(4), []
malloc.restype = ctypes.c_void_p

def work():
    together.wait()
    where.append(malloc(3000))
    together.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
(heap,) = (line.split()[0].split("-") for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
print(sum(int(heap[0], 16) <= address < int(heap[1], 16) for address in where))
"""


@pytest.mark.skipif(not GLIBC, reason="a C library without malloc_trim")
def test_the_holes_between_what_lives_on_are_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 60


@pytest.mark.skipif(not GLIBC, reason="a C library without mallopt")
def test_all_threads_share_one_heap() -> None:
    told = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert int(told.stdout) == 4


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
