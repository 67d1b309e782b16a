"""The memory allocator of the C library, set for programs that JAX runs on CPUs."""

import ctypes
import os
import sys
from pathlib import Path

ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")  # device files, in /dev
OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
# From malloc.h: -1 never returns memory to the system.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
PAD = 2**26  # bytes that are taken from the system at a time, at least


def keep_freed_memory() -> bool:
    """Lets the C library keep freed memory for what is allocated next; returns whether it does.

    Every run of a program on a CPU allocates its temporaries and frees them. glibc takes memory of
    that size from the system each time, which clears it page by page: 20,000 page faults and a
    quarter of the time of a training step of a model with a million parameters. The process keeps
    the memory of its largest program until it ends.

    It must be called before a second thread allocates memory, and so before JAX is imported. It
    does nothing where there is an accelerator, where the C library is not glibc, or where the
    environment sets the allocator.
    """
    if (not sys.platform.startswith("linux") or any(name in os.environ for name in OF_THE_USER)
            or any(any(Path("/dev").glob(pattern)) for pattern in ACCELERATORS)):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # Only the arena of the first thread can grow beyond 64 MB.
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: PAD}
    return all(library.mallopt(name, value) for name, value in settings.items())
