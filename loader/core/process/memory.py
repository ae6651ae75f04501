"""How this process holds its memory; for a process of the loader's own, not for a library's host.

The buffers of a load are of a megabyte or so, and there are thousands of them. glibc takes each from the kernel and
gives it back at once, which then fills every page anew: an eighth of the CPU of reading, parsing and encoding lineitem
(2.75 s → 2.40 s for 2 M rows; page faults 164,000 → 11,000). Kept in the heap they are used again. Arrow's own
allocator (mimalloc) does not give memory back either, but holds a heap beside; with one heap for both, the peak is
14 MB lower. A heap for each thread would keep
what only that thread can use again, so there is one beside the main thread's (200 MB → 222 MB with one for each).
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import cast

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_TRIM_THRESHOLD and so on of glibc's <malloc.h>

ARENAS = 1
"""Heaps, beside that of the main thread, whatever the number of threads. A second one costs 5 MB and saves nothing."""

KEPT = 256 << 20
"""Bytes that may lie free at the heap's end before they are given back: more than a load ever has."""

LARGE = 64 << 20
"""Bytes from which on a buffer is the kernel's business: that of a very long record."""


def spare_imports() -> None:
    """Keep libraries from doing at their import what nothing here makes use of. Must come before they are imported.

    numpy starts threads for linear algebra, which spin for a tenth of a second of CPU. botocore imports what signs
    requests from awscrt wherever that is installed: 40 ms of CPU. `crc` does not need that part.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.modules.setdefault("awscrt.auth", cast("ModuleType", None))  # its import now fails, and botocore does without


def keep_buffers() -> None:
    """Use buffers again instead of giving them back. Does nothing where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return
    mallopt(_ARENA_MAX, ARENAS)
    if mallopt(_MMAP_THRESHOLD, LARGE) and mallopt(_TRIM_THRESHOLD, KEPT):
        # pyarrow reads it when it is imported, which a load may never need (Arrow's manual, "Environment Variables")
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
        if "pyarrow" in sys.modules:  # a hook's package may have imported it
            import pyarrow as pa

            pa.set_memory_pool(pa.system_memory_pool())


LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container's control group says how much memory it may have, in versions 2 and 1 (Linux, cgroups(7))."""

NO_LIMIT = 1 << 50
"""Bytes from which on a limit is the kernel's word for none."""


def memory_limit() -> int | None:
    """Bytes that this process may have, as Lambda or a container's control group says; None where nothing limits it."""
    if (size := os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")).isdecimal():
        return int(size) << 20
    for path in LIMITS:
        with suppress(OSError, ValueError):  # ValueError: "max", which is no number
            limit = int(path.read_text("ascii"))
            return limit if limit < NO_LIMIT else None
    return None
