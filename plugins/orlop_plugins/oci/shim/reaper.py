"""Children: started, adopted and reaped in one place.

The shim is a subreaper, so SIGCHLD is about its own children (the runtime's commands) as well as about what
the runtime left behind (containers and execs, which become ours when the command ends). All are collected by
one waitpid loop; nobody else in this process may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_IGNORED_HERE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit code, or 128 plus the number of the signal."""

    code: int
    at: datetime


class Reaper:
    """Owner of all children. Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Ended]] = {}
        self._early: dict[int, Ended] = {}
        self._expecting = 0

    def install(self) -> None:
        """Begin to reap. Needs the running loop's main thread."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def spawn(
        self,
        args: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> tuple[int, asyncio.Future[Ended]]:
        """Start a program with no descriptors but those named; its pid and its end.

        :raises OSError: it cannot be executed
        """
        # Popen closes all other descriptors and uses vfork; its own waiting is switched off by the return
        # code.
        child = subprocess.Popen(
            args,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env=env,
            cwd=cwd,
            close_fds=True,
        )
        child.returncode = 0
        return child.pid, self.adopt(child.pid)

    def spawn_placed(
        self, args: Sequence[str], fds: Sequence[int], env: Mapping[str, str]
    ) -> tuple[int, asyncio.Future[Ended]]:
        """Start a program that expects descriptors 3, 4, ... to be ``fds``; its pid and its end.

        :raises OSError: it cannot be executed
        """
        # Copies above all places, so that none is overwritten before it is put where it belongs.
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(fds)) for fd in fds]
        try:
            pid = os.posix_spawn(
                args[0],
                list(args),
                env,
                file_actions=[
                    *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
                    *((os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(copies, 3)),
                ],
                setsigdef=_IGNORED_HERE,
            )
        finally:
            for fd in copies:
                os.close(fd)
        return pid, self.adopt(pid)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Within this block the ends of children that nobody has adopted yet are remembered for adopt()."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1
            if not self._expecting:
                self._early.clear()

    def adopt(self, pid: int) -> asyncio.Future[Ended]:
        """The end of a child, or of a process that becomes one."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        early = self._early.pop(pid, None)
        if early is not None:
            future.set_result(early)
        else:
            self._waiting[pid] = future
        return future

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            ended = Ended(code if code >= 0 else 128 - code, datetime.now(UTC))
            future = self._waiting.pop(pid, None)
            if future is None:
                if self._expecting:
                    self._early[pid] = ended
            elif not future.done():
                future.set_result(ended)
