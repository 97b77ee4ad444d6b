"""Packs what a forked worker will write into few pages of memory.

A fork shares every page until one side writes to it. The imports leave small holes all over the heap of the C library,
and malloc fills those first: SQLite's many small pieces would each make a page of the worker's own. So the holes are
filled here, once, with memory that nobody frees; after that new pieces lie side by side in new pages.
"""

import contextlib
import ctypes

_SIZES_BYTES = (65536, 32768, 16384, 8192, 4096, 2048, *range(1536, 15, -16))
"""From large to small, so that a large hole is filled with few pieces."""
_PER_SIZE_MAX = 20_000
_LARGE_BYTES = 120_000
"""No hole is so large, so it comes from the end of the heap; still below what malloc maps for itself."""


def fill_holes() -> None:
    """Call it right before the first fork: every later free makes a hole again."""
    with contextlib.suppress(OSError, AttributeError):  # no C library of the usual kind: then the holes stay
        malloc = ctypes.CDLL(None).malloc
        malloc.restype = ctypes.c_void_p
        malloc.argtypes = (ctypes.c_size_t,)
        end = malloc(_LARGE_BYTES)
        for size in _SIZES_BYTES:
            for _ in range(_PER_SIZE_MAX):
                if (malloc(size) or end) >= end:
                    break  # no hole takes this size any more
