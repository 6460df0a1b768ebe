"""Keeps the process small where the defaults of Python and the C library cost too much memory or CPU.

The command `run` calls `economize` after all imports, the scheduler runs `release_memory`.
"""

import asyncio.selector_events
import asyncio.sslproto
import ctypes
import gc

# Only glibc has them: https://man7.org/linux/man-pages/man3/malloc_trim.3.html and mallopt.3.html
_C = ctypes.CDLL(None)
_malloc_trim = getattr(_C, "malloc_trim", None)
_mallopt = getattr(_C, "mallopt", None)
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

OWN_MAPPING = 128 * 1024
"""Bytes from which on an allocation is a mapping of its own, which leaves no hole on the heap when it is freed."""

RECEIVED = OWN_MAPPING - 4096
"""Bytes that one read of a connection asks for: just too few for a mapping at each read."""


def economize() -> None:
    """Collect cycles seldom, use one heap for all threads, and keep large allocations off the heap.

    To be called before the first thread starts.
    """
    # What is imported by now lives as long as the process, and nearly everything else is freed by its reference count.
    # A collection every 700 objects, the default, took 5 % of the CPU.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    if _mallopt is not None:
        # Threads only hash and write here. glibc's heap for each thread held 2 MiB each and made nothing faster.
        _mallopt(_ARENA_MAX, 1)
        # Set explicitly, the threshold stays. By default glibc raises it to the largest mapping that was freed, and
        # large allocations leave holes on the heap again.
        _mallopt(_MMAP_THRESHOLD, OWN_MAPPING)
    # The default is 256 KiB: each read would be a mapping, which takes a sixth more of the CPU.
    asyncio.selector_events._SelectorTransport.max_size = RECEIVED  # type: ignore[attr-defined]  # noqa: SLF001
    asyncio.sslproto.SSLProtocol.max_size = RECEIVED


async def release_memory() -> None:
    """Free unreachable cycles, which takes 10 to 30 ms, and then the unused pages, which takes 3 ms.

    Without it old cycles stay for hours in a quiet process, and glibc keeps the holes between long-lived objects.
    """
    gc.collect()
    if _malloc_trim is not None:
        _malloc_trim(0)
