"""A process of a container: the main one or an exec, from its creation to the moment its end is known."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal as signals
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlopd.plugin.runtime import Stdio, TaskState

from .explain import Failure, explain, reason_of
from .hub import Hub
from .reaper import Ended, Reaper
from .runc import Runc
from .stdin import StdinWriter
from .streams import Owner, Streams

log = logging.getLogger(__name__)


class Process:
    """What both kinds have in common. ``exec_id`` is "" for the main process."""

    def __init__(self, exec_id: str, stdio: Stdio, stall: float) -> None:
        self.exec_id = exec_id
        self.stdio = stdio
        self.state = TaskState.CREATED
        self.pid = 0
        self.ended: Ended | None = None
        self.reason = ""
        self.hub = Hub(stall)
        self.was_started = False
        self.starting = asyncio.Lock()
        """Held while a start is under way: no end is announced before its start."""
        self._done = asyncio.Event()
        self._streams: Streams | None = None
        self._live = asyncio.Event()
        self._size: tuple[int, int] | None = None
        self._focus: object = None
        self._input_closed = False

    async def wait(self) -> Ended:
        """How it ended, as soon as that is known and announced."""
        await self._done.wait()
        assert self.ended is not None
        return self.ended

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def finish(self, ended: Ended, reason: str = "") -> None:
        """It has ended: pass on the last output, then the end."""
        self.state = TaskState.STOPPED
        self.ended = ended
        self.reason = reason
        if self._streams is not None:
            self._streams.process_ended()
        self._live.set()
        self.hub.exited(ended, reason)

    def announce(self) -> None:
        """Release those who wait for the end."""
        self._done.set()

    def started(self) -> None:
        """It runs its program from now on."""
        self.state = TaskState.RUNNING
        self.was_started = True

    def not_startable(self) -> FailedPrecondition:
        """Why it cannot be started."""
        state = "running" if self.state is TaskState.RUNNING else self.state.value
        if self.ended is None or self.was_started or self.reason:
            return FailedPrecondition(f"cannot start a {state} process: failed precondition")
        return FailedPrecondition(
            f"cannot start a {state} process: it ended with code {self.ended.code} before its program ran",
            reason="ENDED_BEFORE_START",
            hint="somebody killed it, or its limit of memory or its seccomp profile is too strict for the "
            "runtime itself, which is confined like its program by then",
        )

    def signal(self, number: int) -> None:
        """Send a signal to the process itself.

        :raises NotFound: it has ended
        :raises FailedPrecondition: it was not started
        :raises InvalidArgument: there is no such signal
        """
        if self.state is TaskState.STOPPED:
            raise NotFound("process already finished: not found", reason="PROCESS_FINISHED")
        if not self.pid:
            raise FailedPrecondition("process not created: failed precondition")
        try:
            # The pid cannot be another's: it is our child and not reaped yet.
            os.kill(self.pid, number)
        except ProcessLookupError as error:
            raise NotFound("process already finished: not found", reason="PROCESS_FINISHED") from error
        except OSError as error:
            raise InvalidArgument(f"cannot send signal {number}: {error.strerror}") from error

    async def take_streams(self, streams: Streams) -> None:
        """The runtime has answered: bring its streams to life. They are the process's from now on."""
        self._streams = streams
        await streams.live()
        if self._size is not None:
            streams.resize(*self._size)
        self._live.set()

    async def input(self) -> StdinWriter | None:
        """Its standard input, as soon as it is there; None when the process has ended.

        :raises FailedPrecondition: it has none
        """
        await self._live.wait()
        if self.state is TaskState.STOPPED or self._streams is None:
            return None
        if self._streams.stdin is None:
            raise FailedPrecondition(
                "the process has no standard input",
                reason="NO_STDIN",
                hint="create it with standard input kept open (-i)",
            )
        return self._streams.stdin

    def resize(self, width: int, height: int) -> None:
        """Set the size of its terminal; one that is not there yet gets it when it comes."""
        self._size = (width, height)
        if self._streams is not None:
            self._streams.resize(width, height)

    def focus(self, client: object, width: int, height: int) -> None:
        """A client types at a terminal that it shows in a window of this size: the last to do so counts."""
        if self._focus is not client:
            self._focus = client
            self.resize(width, height)

    def begin_input(self) -> None:
        """It is about to run: pass on what a client's FIFO brings."""
        if self._streams is not None:
            self._streams.begin_input()
            if self._input_closed:
                self._streams.close_stdin()

    def close_stdin(self) -> None:
        """No more input. Said before it runs, that is remembered."""
        self._input_closed = True
        if self._streams is not None:
            self._streams.close_stdin()

    async def drain(self, deadline: float) -> None:
        """Give its output some time (seconds) to arrive everywhere, then let go of its streams."""
        if self._streams is not None and not await self._streams.drain(deadline):
            log.warning("process %r: somebody holds its output open; it is closed", self.exec_id)
        self.close()

    def close(self) -> None:
        """Let go of its streams. May be called twice."""
        self.hub.close()
        if self._streams is not None:
            self._streams.close()


class Host(Protocol):
    """What an exec needs of its container."""

    @property
    def id(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def runc(self) -> Runc: ...

    @property
    def owner(self) -> Owner: ...

    @property
    def reaper(self) -> Reaper: ...


class Exec(Process):
    """One more process in a container."""

    def __init__(self, exec_id: str, stdio: Stdio, process: bytes, stall: float) -> None:
        super().__init__(exec_id, stdio, stall)
        self._spec = parse_process(process, stdio.terminal)

    async def launch(self, host: Host) -> asyncio.Future[Ended]:
        """Start it; the future of its end.

        :raises FailedPrecondition: the runtime refused, or the program cannot be run
        """
        spec = host.folder / f"exec-{self.exec_id}.json"
        pid_file = host.folder / f"exec-{self.exec_id}.pid"
        try:
            streams = Streams(self.stdio, host.owner, host.folder, host.reaper, self.hub)
        except OrlopError as error:
            self._fail(error)
            raise
        args = ["--process", str(spec), "--pid-file", str(pid_file), "--detach"]
        if streams.console is not None:
            args += ["--console-socket", streams.console.path]
        try:
            fd = os.open(spec, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(self._spec, file)
            await streams.ready()
            with host.reaper.expecting():
                await host.runc.run("exec", *args, host.id, fds=streams.child_fds)
                self.pid = made_pid(pid_file, host.runc.binary)
                future = host.reaper.adopt(self.pid)
            await self.take_streams(streams)
            self.begin_input()
        except BaseException as error:
            self._fail(error)
            streams.close()
            if isinstance(error, Failure):
                raise explain(error, "OCI runtime exec failed", program_of(self._spec)) from error
            raise
        finally:
            spec.unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)
        return future

    def _fail(self, error: BaseException) -> None:
        code = 255
        if isinstance(error, Failure):
            known = reason_of(error.message)
            code = {"COMMAND_NOT_FOUND": 127, "COMMAND_NOT_EXECUTABLE": 126}.get(known, code)
        if self.pid:
            os.kill(self.pid, signals.SIGKILL)
        self.finish(Ended(code, datetime.now(UTC)), str(error))
        self.announce()


def made_pid(file: Path, binary: str) -> int:
    """The process that a runtime says it made. :raises FailedPrecondition: it says of none"""
    try:
        return int(file.read_text())
    except (OSError, ValueError) as error:
        raise FailedPrecondition(
            f"OCI runtime {binary!r} ended well, but told of no process that it made",
            reason="RUNTIME_NOT_USABLE",
            hint="it is no OCI runtime, or one that does not know --pid-file",
        ) from error


def parse_process(data: bytes, terminal: bool) -> dict[str, Any]:
    """An OCI ``process`` object, its terminal as the request says.

    :raises InvalidArgument: it is no such object
    """
    try:
        spec = json.loads(data)
    except ValueError as error:
        raise InvalidArgument(f"malformed process: {error}") from error
    if not isinstance(spec, dict):
        raise InvalidArgument("malformed process: want a JSON object")
    spec["terminal"] = terminal
    return spec


def program_of(process: dict[str, Any]) -> str:
    """The program that an OCI ``process`` object names, as far as it does."""
    args = process.get("args")
    return str(args[0]) if isinstance(args, list) and args else ""
