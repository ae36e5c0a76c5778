"""The processes of a container, as proc(5) tells of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
from anyio import to_thread

from orlopd.core.scope import Scope
from orlopd.plugin.errors import DeadlineExceeded
from orlopd.plugin.runtime import ProcessEntry

from .find import Finder
from .processes import EXEC_PREFIX, Processes
from .record import name_of

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_ARGS = 4096
_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A process. ``inner_pid`` is its pid in the container, ``state`` the kernel's letter."""

    pid: int
    parent_pid: int
    inner_pid: int
    exec_id: str
    uid: int
    state: str
    cpu_nanos: int
    memory_bytes: int
    started_at: datetime
    name: str
    args: tuple[str, ...] = ()


class Top:
    """Looks at the processes of containers."""

    def __init__(self, finder: Finder, processes: Processes) -> None:
        self._finder = finder
        self._processes = processes

    async def top(self, scope: Scope, reference: str) -> Sequence[RunningProcess]:
        """Those of one container, by pid.

        :raises NotFound: there is no such container
        :raises FailedPrecondition: it does not run
        :raises DeadlineExceeded: a process keeps us from reading its arguments, which are in its memory
        """
        container = await self._finder.container(scope, reference)
        task, _ = await self._processes.running(scope, container)
        entries = await task.pids()
        try:
            with anyio.fail_after(_LOOK_SECONDS):
                found = await to_thread.run_sync(_look, entries, abandon_on_cancel=True)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the processes of {name_of(container)} could not be looked at in {_LOOK_SECONDS:g} s"
            ) from None
        # A pid may have become another's while we read: those count that are still the container's.
        still = {entry.pid for entry in await task.pids()}
        return [process for process in found if process.pid in still]


def _look(entries: Sequence[ProcessEntry]) -> list[RunningProcess]:
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    found = [_process(entry, booted) for entry in sorted(entries, key=lambda each: each.pid)]
    return [process for process in found if process is not None]


def _process(entry: ProcessEntry, booted: float, proc: Path = Path("/proc")) -> RunningProcess | None:
    """A process; None for one that has ended meanwhile."""
    folder = proc / str(entry.pid)
    try:
        stat = (folder / "stat").read_bytes()
        status = dict(
            line.split(b":", 1) for line in (folder / "status").read_bytes().splitlines() if b":" in line
        )
        with (folder / "cmdline").open("rb") as file:
            args = file.read(_MOST_ARGS)
    except OSError:
        return None
    name, _, rest = stat.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    return RunningProcess(
        pid=entry.pid,
        parent_pid=int(fields[1]),
        inner_pid=int(status.get(b"NSpid", b"0").split()[-1]),
        exec_id=entry.exec_id.removeprefix(EXEC_PREFIX),
        uid=int(status[b"Uid"].split()[1]),
        state=fields[0].decode(),
        cpu_nanos=(int(fields[11]) + int(fields[12])) * 1_000_000_000 // _TICKS,
        memory_bytes=int(fields[21]) * _PAGE,
        started_at=datetime.fromtimestamp(booted + int(fields[19]) / _TICKS, UTC),
        name=name.decode(errors="replace"),
        args=tuple(arg.decode(errors="replace") for arg in args.rstrip(b"\0").split(b"\0") if args),
    )
