"""When a process of a container is its program, and no longer the runtime's own init."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Self

_PATIENCE = 3.0
_POLL = 0.001
_INITS = ("runc:[", "youki:[")
"""How runtimes that run from a copy of themselves call their inits."""


class Begun:
    """Tells the runtime's init from the program that it will execute.

    A runtime says "started" a moment before its init executes the program. A signal in between is lost, or
    ends runc's init, a Go program, with 2: an exit code that nobody's program had.

    :param pid: the process
    :param init: what the init executes; None if the process is the program already
    """

    def __init__(self, pid: int, init: tuple[int, int] | None) -> None:
        self._pid = pid
        self._init = init

    @classmethod
    def of_created(cls, pid: int) -> Self:
        """For the init that a runtime's ``create`` left."""
        return cls(pid, _executable(_of(pid)))

    @classmethod
    def of_exec(cls, pid: int, binary: str) -> Self:
        """For what a runtime's ``exec`` left, which may be the program by now.

        :param binary: the runtime's name or path
        """
        init = _executable(_of(pid))
        return cls(pid, init if _is_named_init(pid) or init == _executable(shutil.which(binary)) else None)

    async def wait(self) -> None:
        """Wait, for a few seconds at most, until a started init has executed the program."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        while self._init is not None:
            if _executable(_of(self._pid)) != self._init or loop.time() > deadline:
                self._init = None
            else:
                await asyncio.sleep(_POLL)


def _is_named_init(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith(_INITS)
    except OSError:
        return False


def _executable(path: str | None) -> tuple[int, int] | None:
    """The device and inode of a program; None where there is no telling."""
    try:
        found = os.stat(path) if path else None  # noqa: PTH116
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def _of(pid: int) -> str:
    """The path to what a process executes."""
    return f"/proc/{pid}/exe"
