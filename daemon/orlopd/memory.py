"""How the C library's allocator is to treat a daemon through which blobs flow."""

from __future__ import annotations

import ctypes

# mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_ARENAS = 2
_KEPT = 8 << 20
"""How many freed bytes an arena may keep at its end."""


def limit_arenas() -> None:
    """Have few arenas, for each keeps freed memory; to be called before there are threads."""
    _call("mallopt", _M_ARENA_MAX, _ARENAS)


def keep_freed() -> None:
    """Keep the freed memory of some messages for the next ones; to be called when the daemon is ready.

    As it comes, the allocator gives the memory of each message of a stream back to the kernel, which then
    has to clear new pages for the next one. That takes longer than all the copying: reading a blob is more
    than twice as fast without. What starting up left is given back first.
    """
    _call("malloc_trim", 0)
    _call("mallopt", _M_MMAP_THRESHOLD, _KEPT)
    _call("mallopt", _M_TRIM_THRESHOLD, _KEPT)


def _call(name: str, *arguments: int) -> None:
    # Only glibc has these; where they are missing nothing is lost but speed.
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return
    function(*map(ctypes.c_int, arguments) if name == "mallopt" else map(ctypes.c_size_t, arguments))
