"""When a container's first process is its program, and no longer the runtime's own init."""

from __future__ import annotations

import asyncio
import os

_PATIENCE = 1.0
_POLL = 0.001


class Begun:
    """Tells the runtime's init from the program that it will execute.

    A runtime says "started" a moment before its init executes the program. A signal in between is lost, or
    ends runc's init, a Go program, with 2: an exit code that nobody's program had.

    :param pid: the init, as the runtime's ``create`` left it
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._init = _executable(pid)

    async def wait(self) -> None:
        """Wait, for a second at most, until a started init has executed the program."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        while self._init is not None:
            if _executable(self._pid) != self._init or loop.time() > deadline:
                self._init = None
            else:
                await asyncio.sleep(_POLL)


def _executable(pid: int) -> tuple[int, int] | None:
    """The device and inode of what a process executes; None where there is no telling."""
    try:
        found = os.stat(f"/proc/{pid}/exe")  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino
