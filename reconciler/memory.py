"""How the process deals with its memory, where what Python and the C library do by themselves costs too much.

The command `run` calls `economize` once everything is imported, a round `give_back`.
"""

from __future__ import annotations

import ctypes
import gc

# glibc alone has them: https://man7.org/linux/man-pages/man3/malloc_trim.3.html and mallopt.3.html
_C = ctypes.CDLL(None)
_trim = getattr(_C, "malloc_trim", None)
_set = getattr(_C, "mallopt", None)
_ARENA_MAX = -8


def economize() -> None:
    """Look for cycles of objects seldom while work is done; `give_back` looks for all of them.

    To be called before the first thread begins: from then on all share one heap.
    """
    # What is imported by now lives as long as the process, and nearly all the rest dies by its reference count: looking
    # for cycles every 700 objects took one part in twenty of the CPU.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # Threads only hash and write here. A heap for each, as glibc has it, kept 2 MiB each and made nothing faster.
    if _set is not None:
        _set(_ARENA_MAX, 1)


def give_back() -> None:
    """Free the cycles of objects that nobody holds, and give the kernel the pages that nothing lies on any more.

    The first takes 10 to 30 ms, the second 3. Old cycles would else lie about for hours where little is done. The
    bodies of results lie between what lives longer, and glibc by itself keeps the holes that they leave: 60 MiB after
    some thousand deliveries. To let each body be a mapping of its own, which leaves no holes, took a quarter more CPU.
    """
    gc.collect()
    if _trim is not None:
        _trim(0)
