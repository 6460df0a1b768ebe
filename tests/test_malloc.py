"""Memory that deliveries used goes back to the kernel, and the settings of the heap keep it small."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import weakref

import pytest

from reconciler.malloc import release_memory

MIB = 1 << 20

HOLES = f"""
import asyncio, psutil
from reconciler.malloc import release_memory

bodies = [b"x" * 100_000 for _ in range(800)]
between = [*bodies[::40], bodies[-1]]
del bodies
resident = psutil.Process().memory_info().rss
asyncio.run(release_memory())
print((resident - psutil.Process().memory_info().rss) // {MIB})
"""


GLIBC = hasattr(ctypes.CDLL(None), "malloc_trim")

# A thread's own heap lies at a multiple of 64 MiB, the main heap behind the program.
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
barrier, addresses = threading.Barrier(4), []

def work():
    barrier.wait()
    addresses.append(malloc(3000))
    barrier.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(on_the_heap(addresses))
"""
)

# Freeing a mapping raises glibc's threshold to its size, unless the threshold was set explicitly.
LARGE = (
    HEAP
    + """
free(malloc(16 << 20))
# Free space on the heap is used first.
print(on_the_heap([[malloc(size) for _ in range(50)][-1] for size in (OWN_MAPPING, RECEIVED + 100)]))
"""
)

PLAIN_READ = (
    HEAP
    + """
class Received(asyncio.Protocol):
    def __init__(self):
        self.sizes, self.over = [], asyncio.Event()

    def data_received(self, data):
        self.sizes.append(len(data))

    def connection_lost(self, error):
        self.over.set()

async def read():
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    with theirs:
        theirs.sendall(bytes(RECEIVED + 1000))
    _, received = await asyncio.get_running_loop().connect_accepted_socket(Received, ours)
    await received.over.wait()
    return max(received.sizes)

print(asyncio.run(read()) == RECEIVED)
"""
)

TLS_READ = (
    HEAP
    + """
import ssl

async def read():
    arguments = asyncio.get_running_loop(), asyncio.Protocol(), ssl.create_default_context(), None
    return len(asyncio.sslproto.SSLProtocol(*arguments).get_buffer(-1))

print(asyncio.run(read()) == RECEIVED)
"""
)


def output(program: str) -> str:
    """What a process of its own prints: the heap, threads and limits of other tests would interfere."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not GLIBC, reason="a C library without malloc_trim")
def test_holes_between_living_objects_are_given_back() -> None:
    assert int(output(HOLES)) > 60


@pytest.mark.skipif(not GLIBC, reason="a C library without mallopt")
def test_all_threads_share_one_heap() -> None:
    assert output(THREADS) == str([True] * 4)


@pytest.mark.skipif(not GLIBC, reason="a C library without mallopt")
def test_a_large_allocation_is_a_mapping_and_a_receive_buffer_is_not() -> None:
    assert output(LARGE) == str([False, True])


@pytest.mark.parametrize("program", [PLAIN_READ, TLS_READ], ids=["plain", "TLS"])
def test_one_read_of_a_connection_asks_for_just_less_than_a_mapping(program: str) -> None:
    assert output(program) == "True"


async def test_unreachable_cycles_are_freed() -> None:
    class Node:
        other: Node

    one, two = Node(), Node()
    one.other, two.other = two, one
    gc.collect()
    freed = weakref.ref(one)
    del one, two
    await release_memory()
    assert freed() is None
