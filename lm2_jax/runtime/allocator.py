"""The memory allocator of the C library, set for programs that JAX runs on CPUs."""

import ctypes
import os
import sys
from pathlib import Path

ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")  # device files, in /dev
VARIABLE = "GLIBC_TUNABLES"
OF_THE_USER = (VARIABLE, "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
# One heap, which never shrinks. Only that of the first thread can grow beyond 64 MB. Cached small
# chunks would split the large ones between which they lie, so that these could not be used again.
TUNABLES = {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**62, "top_pad": 2**26,
            "tcache_count": 0}
SETTINGS = ":".join(f"glibc.malloc.{name}={value}" for name, value in TUNABLES.items())


def keep_freed_memory() -> None:
    """Starts this process anew with an allocator that keeps freed memory for later allocations.

    Every run of a program on a CPU allocates its temporaries and frees them. glibc takes memory of
    that size from the system each time, which clears it page by page: 20,000 page faults and a
    quarter of the time of a training step of a model with a million parameters. With these
    settings, which glibc reads when a process starts, the process keeps the memory until it ends.

    It returns, and changes nothing, where there is an accelerator, where the C library is not
    glibc, or where the environment sets the allocator, as it does after the new start.
    """
    if (not sys.platform.startswith("linux") or any(name in os.environ for name in OF_THE_USER)
            or any(any(Path("/dev").glob(pattern)) for pattern in ACCELERATORS)
            or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version")):
        return
    os.environ[VARIABLE] = SETTINGS
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def environment_of_the_user() -> dict[str, str]:
    """Returns the environment for other programs: without what `keep_freed_memory` has set."""
    return {name: value for name, value in os.environ.items()
            if (name, value) != (VARIABLE, SETTINGS)}
