"""Keeping what a forked process writes on few pages, so that it shares the others with all its siblings.

A process that has imported much has memory full of holes: free blocks between those in use. What a fork
allocates would go into them, and each time a whole page would be copied for a few bytes. So before the first
fork all holes are filled, for good: every allocation then comes from pages that nobody shared.
"""

from __future__ import annotations

import ctypes
from typing import Any

_LARGEST_SMALL = 512
_ALIGNMENT = 16
_BYTES_HEAD = 33  # sys.getsizeof(b"")
_POOL = 16 << 10
_POOL_HEAD = 48
_POOLS_IN_A_ROW = 3
_MOST = 20_000
_SIZES = (*(1 << n for n in range(17, 9, -1)), 768, 512, 256, 128, 64, 24)

_kept: list[Any] = []


def fill_holes() -> None:
    """Take every free block that the interpreter's and the C library's allocators have, for good."""
    _kept.extend(_fill_pools(size) for size in range(_LARGEST_SMALL, 3 * _ALIGNMENT - 1, -_ALIGNMENT))
    _kept.append([object() for _ in range(_POOL // _ALIGNMENT * _POOLS_IN_A_ROW)])
    _kept.append([float(n) for n in range(_POOL // 24 * _POOLS_IN_A_ROW)])
    _fill_heap()


def _fill_pools(size: int) -> list[bytes]:
    """Objects of one size class, until they lie side by side as they do in pools that were empty."""
    filling: list[bytes] = []
    in_a_row = before = 0
    while in_a_row < _POOL // size * _POOLS_IN_A_ROW and len(filling) < _MOST:
        block = bytes(size - _BYTES_HEAD)
        in_a_row = in_a_row + 1 if 0 < id(block) - before <= 2 * size + _POOL_HEAD else 0
        before = id(block)
        filling.append(block)
    return filling


def _fill_heap() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.sbrk.restype = ctypes.c_void_p
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.malloc_trim(0)
    end = libc.sbrk(0) or 0
    for size in _SIZES:
        for _ in range(_MOST):
            block = libc.malloc(size) or 0
            # What is larger than the heap's largest hole comes from above its end, or from a mapping.
            if block >= end - size:
                libc.free(block)
                break
