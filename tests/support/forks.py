"""What forks workers, kept over many tests: starting it takes longer than most of them."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator

from orlop_plugins.tar.pool import WorkerPool


class Forks:
    """A process that forks workers, for one pool after the other; their event loops may differ."""

    def __init__(self, zygote: str = "orlop_plugins.tar.zygote") -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", zygote, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def pool(self, workers: int, log: logging.Logger) -> WorkerPool:
        """A pool whose workers it forks."""
        return _Pool(self, workers, log)

    def close(self) -> None:
        """End it, as a pool does: nobody can ask for anything."""
        self.control.close()
        try:
            assert self._process.wait(20) == 0
        finally:
            self._process.kill()
            self._process.wait()


class _Pool(WorkerPool):
    """A pool that comes to a process that is there."""

    def __init__(self, forks: Forks, workers: int, log: logging.Logger) -> None:
        super().__init__(workers, log)
        self._forks = forks

    async def start(self) -> None:
        if self._control is None:
            self._control = self._forks.control.dup()


@contextlib.contextmanager
def forks(zygote: str = "orlop_plugins.tar.zygote") -> Iterator[Forks]:
    """Such a process, for the time of a block."""
    made = Forks(zygote)
    try:
        yield made
    finally:
        made.close()
