"""How the process deals with its memory, where what Python and the C library do by themselves costs too much.

The command `run` calls `economize` once everything is imported, a round `give_back`.
"""

from __future__ import annotations

import asyncio.selector_events
import asyncio.sslproto
import ctypes
import gc

# glibc alone has them: https://man7.org/linux/man-pages/man3/malloc_trim.3.html and mallopt.3.html
_C = ctypes.CDLL(None)
_trim = getattr(_C, "malloc_trim", None)
_set = getattr(_C, "mallopt", None)
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

OWN_MAPPING = 128 * 1024
"""Bytes from which on an allocation is a mapping of its own, which leaves no hole where it lay."""

RECEIVED = OWN_MAPPING - 4096
"""Bytes that one look at a connection asks for: just too few for a mapping at each look."""


def economize() -> None:
    """Look for cycles of objects seldom while work is done; `give_back` looks for all of them.

    To be called before the first thread begins: from then on all share one heap.
    """
    # What is imported by now lives as long as the process, and nearly all the rest dies by its reference count: looking
    # for cycles every 700 objects took one part in twenty of the CPU.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    if _set is not None:
        # Threads only hash and write here. A heap for each, as glibc has it, kept 2 MiB each and made nothing faster.
        _set(_ARENA_MAX, 1)
        # Named, it also stays: glibc by itself raises it to the largest that was freed, and the holes come back.
        _set(_MMAP_THRESHOLD, OWN_MAPPING)
    # By themselves 256 KiB: each look would be a mapping, and take a sixth more of the CPU.
    asyncio.selector_events._SelectorTransport.max_size = RECEIVED  # type: ignore[attr-defined]  # noqa: SLF001
    asyncio.sslproto.SSLProtocol.max_size = RECEIVED


def give_back() -> None:
    """Free the cycles of objects that nobody holds, and give the kernel the pages that nothing lies on any more.

    The first takes 10 to 30 ms, the second 3. Old cycles would else lie about for hours where little is done, and glibc
    keeps by itself the holes between what lives longer.
    """
    gc.collect()
    if _trim is not None:
        _trim(0)
