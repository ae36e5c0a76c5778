"""The contract of a runtime: tasks and their processes, each under a shim that outlives the daemon."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from .values import FieldValue, Mount, TypedBytes


class TaskState(enum.Enum):
    """The states of a process, as containerd has them."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    PAUSING = "pausing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Stdio:
    """Where a process's streams go.

    Each of the three is "" (nothing), the path of a FIFO that a client made, or a URI:
    ``file:///path`` (append), ``binary:///path?args`` (a log driver). With ``attach`` set the shim
    keeps the streams itself for clients that connect by :meth:`Task.attach`; ``log`` then names a
    file for it to write, in CRI's or Docker's format. Attach works beside FIFOs as well. ``hold_stdin``
    gives the process a standard input that stays open until a client ends it.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    attach: bool = False
    hold_stdin: bool = False
    log: str = ""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task is made of. ``spec`` is an OCI runtime spec as JSON; ``options`` the runtime's own.

    ``runtime`` is the name that was asked for: a runtime that answers to a pattern of names needs it.
    """

    namespace: str
    id: str
    spec: bytes
    rootfs: Sequence[Mount] = ()
    stdio: Stdio = Stdio()
    options: TypedBytes | None = None
    checkpoint: str = ""
    bundle: str = ""
    """An existing bundle directory to run as it is; the runtime makes one when empty."""
    runtime: str = ""


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """One more process. ``process`` is an OCI ``process`` object as JSON."""

    id: str
    process: bytes
    stdio: Stdio = Stdio()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended. ``reason`` is set when the code alone would mislead."""

    code: int
    at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process as it is; ``exec_id`` is "" for the main process."""

    id: str
    exec_id: str
    pid: int
    state: TaskState
    stdio: Stdio = Stdio()
    exit: Exit | None = None
    bundle: str = ""


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """A pid of a task. ``exec_id`` is set where an exec started it."""

    pid: int
    exec_id: str = ""


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Something a task did. ``sequence`` counts from 1 for each task.

    ``message`` and ``fields`` are as in :class:`orlopd.plugin.values.Event`.
    """

    sequence: int
    at: datetime
    topic: str
    message: str
    fields: Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class Stdin:
    """Bytes for standard input; empty ``data`` with ``end`` is its end."""

    data: bytes
    end: bool = False


@dataclass(frozen=True, slots=True)
class Resize:
    """A terminal's new size in cells."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SendSignal:
    """A signal by number."""

    number: int


@dataclass(frozen=True, slots=True)
class Detach:
    """Leave the process running and end the attachment."""


Input = Stdin | Resize | SendSignal | Detach


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes a process wrote; ``fd`` is 1 or 2."""

    fd: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Detached:
    """The detach that was asked for is done."""


class Attachment(Protocol):
    """A live connection to a process's streams."""

    @property
    def terminal(self) -> bool:
        """Whether the process has a terminal."""
        ...

    async def send(self, item: Input) -> None:
        """:raises FailedPrecondition: standard input has ended or was not asked for"""
        ...

    def output(self) -> AsyncIterator[Output | Exit | Detached]:
        """What the process writes; the last item is an Exit or Detached.

        :raises ResourceExhausted: this client did not read and was cut off
        :raises Unavailable: the shim is gone
        """
        ...


class Task(Protocol):
    """A container's processes. ``exec_id`` "" is the main process in every call.

    Every call raises NotFound where the task or exec is not there, Unavailable where the shim
    cannot be reached, and FailedPrecondition where the state does not allow it.
    """

    @property
    def namespace(self) -> str: ...

    @property
    def id(self) -> str: ...

    async def start(self, exec_id: str = "") -> int:
        """Start a created process; its pid.

        :raises FailedPrecondition: with reason COMMAND_NOT_FOUND or COMMAND_NOT_EXECUTABLE where
            the program cannot be run
        """
        ...

    async def exec(self, spec: ExecSpec) -> None:
        """Add a process; start it with :meth:`start`. :raises AlreadyExists: its id is taken"""
        ...

    async def status(self, exec_id: str = "") -> ProcessStatus: ...

    async def wait(self, exec_id: str = "") -> Exit:
        """Wait until the process has ended; at once if it has."""
        ...

    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None: ...

    async def delete(self, exec_id: str = "") -> Exit:
        """Forget a stopped process; for the main process its mounts, cgroup, bundle and shim go too.

        A created main process is killed first.
        """
        ...

    async def pids(self) -> Sequence[ProcessEntry]: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def resize(self, width: int, height: int, exec_id: str = "") -> None: ...

    async def close_stdin(self, exec_id: str = "") -> None: ...

    async def stats(self) -> TypedBytes:
        """A cgroup metrics message: io.containerd.cgroups.v1.Metrics or v2.Metrics."""
        ...

    async def update(self, resources: bytes, annotations: Mapping[str, str]) -> None:
        """Change limits live. ``resources`` is an OCI ``linux.resources`` object as JSON."""
        ...

    async def checkpoint(self, path: str, options: TypedBytes | None) -> None: ...

    def attach(
        self, exec_id: str = "", *, stdin: bool = False, scrollback: bool = False
    ) -> AbstractAsyncContextManager[Attachment]:
        """Connect to a process's streams; before start too, so that nothing is missed."""
        ...

    def events(self, after: int = 0) -> AsyncIterator[TaskEvent]:
        """What happened from sequence number ``after`` on (exclusive), then what happens.

        Events up to ``after`` may be forgotten. Ends when the task is deleted. A shim that died
        yields a final /tasks/exit with a reason.
        """
        ...


class Runtime(Protocol):
    """Makes tasks and finds them again."""

    async def create(self, spec: TaskSpec) -> Task:
        """Make a task, its main process created but not started. Undone whole on failure.

        :raises AlreadyExists: the task is there
        :raises InvalidArgument: the spec or options are malformed
        :raises FailedPrecondition: the runtime refused; its message says why
        :raises NotFound: the runtime's program is missing
        """
        ...

    async def recover(self) -> Sequence[Task]:
        """The tasks that an earlier daemon left, found in the state folder.

        A task whose shim is gone is returned too: it reports stopped with a reason, its processes,
        mounts and cgroup are cleaned. What is half made is removed.
        """
        ...
