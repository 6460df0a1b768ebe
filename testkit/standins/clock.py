"""A wall clock that a test can set for a whole running process; the monotonic clock of the process is not changed.

A library of a few lines, compiled on the spot, stands before the C library's own clock.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from pathlib import Path
from typing import Self

COMPILER = shutil.which("cc")

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long *ahead;
__attribute__((constructor)) static void look(void) {
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *seen = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (seen != MAP_FAILED) ahead = seen;
}
static long now_ahead(void) { return ahead ? *ahead : 0; }
int clock_gettime(clockid_t id, struct timespec *told) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, told);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) told->tv_sec += now_ahead();
    return failed;
}
int gettimeofday(struct timeval *told, void *zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    told->tv_sec = exact.tv_sec;
    told->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *told) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (told) *told = exact.tv_sec;
    return exact.tv_sec;
}
"""


class Clock:
    """A context manager; a process that is started with its `environment` reads this clock."""

    def __init__(self, folder: Path, ahead: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._library = folder / "clock.so"
        self._path = folder / "clock"
        self._path.write_bytes(bytes(ctypes.c_long(ahead)))

    def __enter__(self) -> Self:
        assert COMPILER is not None
        source = self._library.with_suffix(".c")
        source.write_text(_SOURCE)
        command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        with self._path.open("r+b") as file:
            self._seen = mmap.mmap(file.fileno(), ctypes.sizeof(ctypes.c_long))
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.close()

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "TEST_CLOCK": str(self._path)}

    def turn(self, ahead: int) -> None:
        """Set it so many seconds ahead of the true time from now on."""
        self._seen[:] = bytes(ctypes.c_long(ahead))
