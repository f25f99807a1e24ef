"""The C library's memory: what a step frees, the next one takes, instead of asking the system again.

glibc hands large freed blocks back at once, and each comes again as pages that the system must fill with
zeros. A training asks for the same blocks in every step.
"""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from glibc's malloc.h."""

NEVER = 2**31 - 1
"""Bytes that may lie free before glibc returns them: the largest number that `mallopt` takes."""

LARGEST_KEPT = 2**26
"""Bytes of the largest block that glibc keeps when it is freed: activations, but no whole data sets."""

LARGEST_OF_OLD = 2**25
"""The same for a glibc before 2.35, which takes no larger number."""


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees for its next allocations.

    Returns:
        whether it does: not with another C library or allocator, nor where the user has tuned glibc.
    """
    if not _is_plain_glibc() or _is_tuned():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    keeps = mallopt(MMAP_THRESHOLD, LARGEST_KEPT) or mallopt(MMAP_THRESHOLD, LARGEST_OF_OLD)
    return bool(keeps and mallopt(TRIM_THRESHOLD, NEVER))


def _is_plain_glibc() -> bool:
    """Whether memory comes from glibc, and from no allocator loaded before it, such as jemalloc."""
    return platform.libc_ver()[0] == "glibc" and "malloc" not in os.environ.get("LD_PRELOAD", "")


def _is_tuned() -> bool:
    """Whether the user has set one of glibc's own settings of its memory."""
    by_variable = any(name.startswith("MALLOC_") for name in os.environ)
    return by_variable or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
