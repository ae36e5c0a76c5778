"""Noticing that the kernel killed something in a container because memory ran out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
from collections.abc import Callable

from .cgroups import Cgroup

log = logging.getLogger(__name__)


class OomWatch:
    """Calls ``happened`` once for every time the group's count of such kills was seen to grow."""

    def __init__(self, cgroup: Cgroup, happened: Callable[[], None]) -> None:
        self._cgroup = cgroup
        self._happened = happened
        self._seen = cgroup.oom_kills()
        self.kills = 0
        """How many kills were seen since the watch began."""
        self._loop = asyncio.get_running_loop()
        self._fds: list[int] = []
        self._poll: select.epoll | None = None
        try:
            if cgroup.version == 1:
                self._watch_1()
            else:
                self._watch_2()
        except OSError as error:
            log.warning("out-of-memory kills will be noticed only at a container's end: %s", error)
            self.close()

    def check(self) -> None:
        """Look now."""
        count = self._cgroup.oom_kills()
        if count > self._seen:
            self.kills += count - self._seen
            self._seen = count
            self._happened()

    def close(self) -> None:
        """Stop watching. May be called twice."""
        if self._poll is not None:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
        for fd in self._fds:
            with contextlib.suppress(KeyError, ValueError):
                self._loop.remove_reader(fd)
            os.close(fd)
        self._fds.clear()

    def _watch_1(self) -> None:
        # Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control"
        folder = self._cgroup.path("memory")
        if folder is None:
            return
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fds.append(event)
        control = os.open(folder / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(control)
        fd = os.open(folder / "cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d %d" % (event, control))
        finally:
            os.close(fd)
        self._loop.add_reader(event, self._event_1, event)

    def _event_1(self, event: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(event)
        # The notice comes when memory runs out, the kill a moment later; check() at the end finds a late one.
        self.check()
        self._loop.call_later(0.05, self.check)

    def _watch_2(self) -> None:
        # A change of memory.events is an exceptional condition of the file (cgroup-v2.rst), which the event
        # loop cannot wait for; an epoll descriptor, readable when its own has something, can stand between.
        folder = self._cgroup.path("memory")
        if folder is None:
            return
        fd = os.open(folder / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        self._poll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._poll.register(fd, select.EPOLLPRI)
        self._loop.add_reader(self._poll.fileno(), self._event_2)

    def _event_2(self) -> None:
        if self._poll is not None:
            self._poll.poll(0)
            os.pread(self._fds[0], 4096, 0)
            self.check()
