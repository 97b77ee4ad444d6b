"""Packs what a forked worker will write into few pages of memory.

A fork shares every page until one side writes to it. Years of imports leave small holes all over the heap, and the
allocator fills those first: a worker would touch a page of its own for nearly each of its first objects. So the holes
are filled here, once, with bytes that nobody frees; after that new objects lie side by side in new pages.
"""

import gc
import sys
from collections.abc import Callable
from functools import partial
from itertools import repeat

_STEP_BYTES = 16
_SMALL_MAX_BYTES = 512
"""The interpreter's own allocator serves up to this size, in steps; each size has pools of its own."""
_POOL_BITS = 14
_EMPTY_BYTES = sys.getsizeof(b"")
_ROUNDS_MAX = 200

_plugs: list[object] = []


def fill_holes() -> None:
    """Call it right before gc.freeze, when nothing is made or dropped any more."""
    gc.collect()  # empties also the interpreter's lists of objects to use again, which lie all over the heap
    for size in range(_STEP_BYTES, _SMALL_MAX_BYTES + 1, _STEP_BYTES):
        _fill(_maker(size), (1 << _POOL_BITS) // size)


def _maker(size: int) -> Callable[[], object]:
    """Makes objects of `size` bytes that refer to nothing."""
    if size == _STEP_BYTES:
        return object
    if size < _EMPTY_BYTES + 2:  # there are only so many bytes objects of length 0 and 1
        return partial(float, "1")
    return partial(bytes, size - _EMPTY_BYTES)


def _fill(make: Callable[[], object], per_pool: int) -> None:
    """Make objects until as many as go into one pool came from two at most: those were new ones."""
    for _ in range(_ROUNDS_MAX):
        made = [make() for _ in repeat(None, per_pool)]
        _plugs.append(made)
        if len({id(plug) >> _POOL_BITS for plug in made}) <= 2:
            return
