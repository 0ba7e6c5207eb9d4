"""glibc's allocator, told to keep what it is given back."""

from __future__ import annotations

import ctypes
import platform

# From malloc.h; large blocks come from the heap instead of fresh pages, and the heap is not trimmed.
SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 256 << 20)}


def keep_freed_memory() -> bool:
    """Call before the first tensor is made; returns whether it took effect (Linux with glibc).

    By default glibc returns the large blocks of a training step to the system at its end, and the page faults of the
    next step cost more than its matrix products.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL("libc.so.6")
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in SETTINGS.values())
