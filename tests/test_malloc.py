"""What deliveries leave of memory goes back to the kernel."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import weakref

import pytest

from reconciler.malloc import give_back

MIB = 1 << 20

HOLES = f"""
import psutil
from reconciler.malloc import give_back

bodies = [b"x" * 100_000 for _ in range(800)]
between = [*bodies[::40], bodies[-1]]
del bodies
resident = psutil.Process().memory_info().rss
give_back()
print((resident - psutil.Process().memory_info().rss) // {MIB})
"""


GLIBC = hasattr(ctypes.CDLL(None), "malloc_trim")

# A heap of a thread's own lies at a multiple of 64 MiB, the process's own behind the program.
HEAP = """
import asyncio, ctypes, socket, threading
from reconciler.malloc import OWN_MAPPING, RECEIVED, economize

economize()
C = ctypes.CDLL(None)
malloc, free = C.malloc, C.free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def on_the_heap(addresses):
    (heap,) = (line.split()[0].split("-") for line in open("/proc/self/maps") if line.rstrip().endswith("[heap]"))
    return [int(heap[0], 16) <= address < int(heap[1], 16) for address in addresses]

"""

THREADS = (
    HEAP
    + """
together, where = threading.Barrier(4), []

def work():
    together.wait()
    where.append(malloc(3000))
    together.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(on_the_heap(where))
"""
)

# Freeing a mapping raises glibc's own bound to its size, unless the bound was named.
LARGE = (
    HEAP
    + """
free(malloc(16 << 20))
# What is free on the heap is taken first.
print(on_the_heap([[malloc(size) for _ in range(50)][-1] for size in (OWN_MAPPING, RECEIVED + 100)]))
"""
)

LOOKS = (
    HEAP
    + """
class Taken(asyncio.Protocol):
    def __init__(self):
        self.sizes, self.over = [], asyncio.Event()

    def data_received(self, data):
        self.sizes.append(len(data))

    def connection_lost(self, error):
        self.over.set()

async def look():
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    with theirs:
        theirs.sendall(bytes(RECEIVED + 1000))
    _, taken = await asyncio.get_running_loop().connect_accepted_socket(Taken, ours)
    await taken.over.wait()
    return max(taken.sizes)

print(asyncio.run(look()) == RECEIVED)
"""
)

TLS = (
    HEAP
    + """
import ssl

async def look():
    around = asyncio.get_running_loop(), asyncio.Protocol(), ssl.create_default_context(), None
    return len(asyncio.sslproto.SSLProtocol(*around).get_buffer(-1))

print(asyncio.run(look()) == RECEIVED)
"""
)


def told(program: str) -> str:
    """What a process of its own says: another test's heap, threads and bounds would be in the way."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not GLIBC, reason="a C library without malloc_trim")
def test_the_holes_between_what_lives_on_are_given_back() -> None:
    assert int(told(HOLES)) > 60


@pytest.mark.skipif(not GLIBC, reason="a C library without mallopt")
def test_all_threads_share_one_heap() -> None:
    assert told(THREADS) == str([True] * 4)


@pytest.mark.skipif(not GLIBC, reason="a C library without mallopt")
def test_what_is_large_leaves_no_hole_and_what_is_received_is_no_mapping() -> None:
    assert told(LARGE) == str([False, True])


@pytest.mark.parametrize("program", [LOOKS, TLS], ids=["plain", "TLS"])
def test_a_look_at_a_connection_asks_for_just_less_than_a_mapping(program: str) -> None:
    assert told(program) == "True"


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
