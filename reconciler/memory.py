"""How the process deals with its memory: what no measurement of ours wanted by default.

Called once by the command `run`, when everything is imported.
"""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The numbers of glibc's mallopt(3)."""

_LARGE = 128 << 10
"""Bytes from which an allocation is a mapping of its own: glibc's first value, which it raises to 32 MiB by itself."""


def economize() -> None:
    """Give large buffers back when they are freed, and look for cycles of objects seldom."""
    # What is imported by now lives as long as the process, and nearly all the rest dies by its reference count: looking
    # for cycles every 700 objects took one part in twenty of the CPU.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # Once a large buffer was freed, glibc takes the next ones from its heap. There the bodies of results, up to a MiB
    # each, lie between what lives long, and holes stay that are never given back: 60 MiB after 2,000 deliveries.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Other C libraries have no such call, and no such habit.
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _LARGE)
