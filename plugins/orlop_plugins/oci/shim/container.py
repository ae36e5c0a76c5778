"""One container in the shim: its main process, its execs and what may be done to them when."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal as signals
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlopd.plugin.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    OrlopError,
)
from orlopd.plugin.runtime import ProcessEntry, Stdio, TaskState
from orlopd.plugin.values import Mount

from ..journal import Journal
from .aside import aside
from .begun import Begun
from .bundle import Facts
from .cgroups import Cgroup
from .explain import Failure, explain
from .logfile import LogKeeping
from .oom import OomWatch
from .process import Exec, Process, made_pid
from .reaper import Ended, Reaper
from .restore import checkpoint_args, restore_args
from .root import Root
from .runc import Runc
from .streams import Owner, Streams
from .told import Told

log = logging.getLogger(__name__)

_DRAIN_DEADLINE = 10.0
_KILL_DEADLINE = 10.0
_EXECS_DEADLINE = 5.0


class Container:
    """A container. Methods raise what :class:`orlopd.plugin.runtime.Task` says."""

    def __init__(
        self,
        namespace: str,
        id: str,
        bundle: Path,
        options: oci_pb2.Options,
        stdio: Stdio,
        root: Path,
        reaper: Reaper,
        journal: Journal,
        stall: float,
        keeping: LogKeeping,
    ) -> None:
        self.id = id
        self.folder = bundle
        self.reaper = reaper
        self.owner = Owner(namespace, id, options.io_uid, options.io_gid, keeping)
        self.runc = Runc(
            reaper,
            options.binary_name or "runc",
            Path(options.root) / namespace if options.root else root,
            bundle,
            systemd_cgroup=options.systemd_cgroup,
        )
        self.main = Process("", stdio, stall)
        self.execs: dict[str, Exec] = {}
        self.cgroup: Cgroup | None = None
        self._options = options
        self._stall = stall
        self._told = Told(journal, id)
        self._root = Root(bundle / "rootfs")
        self._oom: OomWatch | None = None
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._restore: list[str] | None = None
        self._begun: Begun | None = None
        self._deleted = False
        self._facts = Facts.of(bundle)

    async def create(self, rootfs: Sequence[Mount], checkpoint: str, parent_checkpoint: str) -> None:
        """Make it; on failure nothing of it stays."""
        try:
            await self._root.mount(rootfs)
            if checkpoint:
                self._restore = restore_args(self._options, checkpoint, parent_checkpoint, self.folder)
            else:
                await self._launch("create", [], "OCI runtime create failed")
        except BaseException:
            await asyncio.shield(self._undo())
            raise
        self._told.created(self.folder, rootfs, self.main.stdio, checkpoint, self.main.pid)

    async def start(self, exec_id: str) -> int:
        """Start the main process or an exec."""
        process = self.process(exec_id)
        async with process.starting:
            if process.state is not TaskState.CREATED:
                raise process.not_startable()
            if isinstance(process, Exec):
                if self.main.state is not TaskState.RUNNING:
                    raise FailedPrecondition(
                        f"container {self.id} init process is not running: failed precondition",
                        hint="start the container first",
                    )
                future = await process.launch(self)
                process.started()
                self._told.exec_started(exec_id, process.pid)
                self._watch(process, future)
            else:
                await self._start_main()
                process.started()
                self._told.started(process.pid)
        return process.pid

    def add_exec(self, exec_id: str, stdio: Stdio, process: bytes) -> None:
        """Prepare an exec."""
        if exec_id in self.execs:
            raise AlreadyExists(f"id {exec_id}: already exists", resource=f"exec {exec_id}")
        if self.main.state in (TaskState.STOPPED, TaskState.PAUSED, TaskState.PAUSING):
            raise FailedPrecondition(f"cannot exec in a {self.main.state.value} state: failed precondition")
        self.execs[exec_id] = Exec(exec_id, stdio, process, self._stall)
        self._told.exec_added(exec_id)

    def process(self, exec_id: str) -> Process:
        """:raises NotFound: there is no such exec"""
        if not exec_id:
            return self.main
        if exec_id not in self.execs:
            raise NotFound(f"process does not exist {exec_id}: not found", resource=f"exec {exec_id}")
        return self.execs[exec_id]

    def state(self, exec_id: str) -> TaskState:
        """A process's state; execs are paused with the container."""
        process = self.process(exec_id)
        paused = self.main.state in (TaskState.PAUSED, TaskState.PAUSING)
        return self.main.state if paused and process.state is not TaskState.STOPPED else process.state

    async def kill(self, exec_id: str, number: int, all: bool) -> None:
        """Send a signal to a process, or to all of the container."""
        process = self.process(exec_id)
        if process is self.main and number == signals.SIGKILL and await self._give_up_restore():
            return
        if process.state is TaskState.RUNNING and number != signals.SIGKILL:
            is_exec = process is not self.main
            begun = Begun.of_exec(process.pid, self.runc.binary) if is_exec else self._begun
            if begun is not None:
                await begun.wait()
        if exec_id or not (all or process.state is TaskState.PAUSED):
            process.signal(number)
            return
        # The runtime knows how to reach all processes, and how to kill those that are frozen.
        args = ["--all", self.id, str(number)] if all else [self.id, str(number)]
        try:
            await self.runc.run("kill", *args)
        except Failure as failure:
            said = failure.message.lower()
            if "not running" in said or "no such process" in said or "already finished" in said:
                raise NotFound("process already finished: not found", reason="PROCESS_FINISHED") from failure
            if "does not exist" in said:
                raise NotFound("no such container: not found") from failure
            raise explain(failure, "OCI runtime kill failed") from failure

    async def pause(self) -> None:
        async with self._changing:
            if self.main.state is not TaskState.RUNNING:
                raise FailedPrecondition(
                    f"cannot pause a {self.main.state.value} container: failed precondition"
                )
            self.main.state = TaskState.PAUSING
            try:
                await self.runc.run("pause", self.id)
            except BaseException as error:
                if self.main.state is TaskState.PAUSING:
                    self.main.state = TaskState.RUNNING
                if isinstance(error, Failure):
                    raise explain(error, "OCI runtime pause failed") from error
                raise
            if self.main.state is TaskState.PAUSING:
                self.main.state = TaskState.PAUSED
            self._told.paused()

    async def resume(self) -> None:
        async with self._changing:
            if self.main.state is not TaskState.PAUSED:
                raise FailedPrecondition(
                    f"cannot resume a {self.main.state.value} container: failed precondition"
                )
            await self._ask("resume", self.id)
            if self.main.state is TaskState.PAUSED:
                self.main.state = TaskState.RUNNING
            self._told.resumed()

    async def update(self, resources: bytes) -> None:
        if self.main.state is TaskState.STOPPED:
            raise FailedPrecondition("cannot update a stopped container: failed precondition")
        if self._restore is not None and not self.main.pid:
            raise FailedPrecondition(
                "cannot update a container that is not restored yet: failed precondition",
                hint="start it first: the runtime makes it anew from its checkpoint then",
            )
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".resources-") as file:
            file.write(resources)
            file.flush()
            await self._ask("update", "--resources", file.name, self.id)

    async def checkpoint(self, path: str, options: oci_pb2.CheckpointOptions) -> None:
        if self.main.state not in (TaskState.RUNNING, TaskState.PAUSED):
            raise FailedPrecondition(
                f"cannot checkpoint a {self.main.state.value} container: failed precondition"
            )
        await self._ask("checkpoint", *checkpoint_args(options, path, self.folder), self.id)

    async def pids(self) -> list[ProcessEntry]:
        """All processes in the container's control group; the main one and execs where it has none."""
        if self.main.state is TaskState.STOPPED:
            return []
        pids = await aside(self.cgroup.pids) if self.cgroup is not None else []
        by_pid = {process.pid: process.exec_id for process in self.execs.values() if not process.is_done}
        known = [self.main.pid, *by_pid] if self.main.pid else list(by_pid)
        return [ProcessEntry(pid, by_pid.get(pid, "")) for pid in (pids or known)]

    async def delete(self, exec_id: str) -> Process:
        """Forget an exec, or the container with all it has."""
        process = self.process(exec_id)
        if isinstance(process, Exec):
            await self._delete_exec(process)
        else:
            await self._delete_main()
        return process

    async def _delete_exec(self, process: Exec) -> None:
        if process.state is TaskState.RUNNING:
            raise FailedPrecondition("cannot delete a running process: failed precondition")
        await process.drain(_DRAIN_DEADLINE)
        self.execs.pop(process.exec_id, None)

    async def _delete_main(self) -> None:
        async with self._changing:
            if self._deleted:
                raise NotFound(f"container {self.id} was deleted: not found")
            await self._end_created()
            if self.main.state is not TaskState.STOPPED:
                raise FailedPrecondition(
                    f"cannot delete a {self.main.state.value} process: failed precondition",
                    hint="kill it first, or wait for its end",
                )
            await self.main.wait()
            await self.main.drain(_DRAIN_DEADLINE)
            try:
                await self.runc.run("delete", self.id)
            except Failure as failure:
                if "does not exist" not in failure.message:
                    raise explain(failure, "failed to delete task") from failure
            for process in self.execs.values():
                process.close()
            self.execs.clear()
            self._close()
            await self._root.unmount()
            self._deleted = True
        ended = self.main.ended
        assert ended is not None
        self._told.deleted(self.main.pid, ended)

    async def _end_created(self) -> None:
        if self.main.state is not TaskState.CREATED:
            return
        if await self._give_up_restore() or self.main.state is not TaskState.CREATED:
            return
        with contextlib.suppress(NotFound):
            self.main.signal(signals.SIGKILL)
        try:
            async with asyncio.timeout(_KILL_DEADLINE):
                await self.main.wait()
        except TimeoutError as error:
            raise FailedPrecondition("the container's process does not end though it was killed") from error

    async def _give_up_restore(self) -> bool:
        """End a main process that was to be restored and never was; whether it was one."""
        if self._restore is None or self.main.pid or self.main.state is not TaskState.CREATED:
            return False
        async with self.main.starting:
            if self.main.pid or self.main.state is not TaskState.CREATED:
                return False
            ended = Ended(128 + signals.SIGKILL, datetime.now(UTC))
            self._note_end(self.main, ended)
            return True

    def _note_end(self, process: Process, ended: Ended, reason: str = "") -> None:
        process.finish(ended, reason)
        self._told.ended(process.exec_id, process.pid, ended)
        process.announce()

    async def _launch(self, command: str, extra: Sequence[str], what: str) -> None:
        """Run the runtime's create or restore, and take over the process and its streams."""
        pid_file = self.folder / "init.pid"
        streams = Streams(self.main.stdio, self.owner, self.folder, self.reaper, self.main.hub)
        args = ["--bundle", str(self.folder), "--pid-file", str(pid_file), *extra]
        if streams.console is not None:
            args += ["--console-socket", streams.console.path]
        if self._options.no_pivot_root:
            args.append("--no-pivot")
        if self._options.no_new_keyring and command == "create":
            args.append("--no-new-keyring")
        try:
            await streams.ready()
            with self.reaper.expecting():
                await self.runc.run(command, *args, self.id, fds=streams.child_fds)
                self.main.pid = made_pid(pid_file, self.runc.binary)
                future = self.reaper.adopt(self.main.pid)
            await self.main.take_streams(streams)
        except BaseException as error:
            streams.close()
            if isinstance(error, Failure):
                raise explain(error, what, self._facts.program) from error
            raise
        self.cgroup = await aside(Cgroup.of, self.main.pid)
        if self.cgroup is not None:
            self._oom = OomWatch(self.cgroup, self._told.out_of_memory)
        if command == "create":
            self._begun = Begun.of_created(self.main.pid)
        self._watch(self.main, future)

    async def _start_main(self) -> None:
        if self._restore is not None:
            await self._launch("restore", self._restore, "OCI runtime restore failed")
            self.main.begin_input()
            return
        self.main.begin_input()
        await self._ask("start", self.id, program=self._facts.program)

    async def _ask(self, command: str, *args: str, program: str = "") -> None:
        """Have the runtime do something. :raises OrlopError: it failed, and why"""
        try:
            await self.runc.run(command, *args)
        except Failure as failure:
            raise explain(failure, f"OCI runtime {command} failed", program) from failure

    def _watch(self, process: Process, future: asyncio.Future[Ended]) -> None:
        task = asyncio.create_task(self._until_end(process, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_end(self, process: Process, future: asyncio.Future[Ended]) -> None:
        ended = await future
        async with process.starting:
            reason = ""
            if process is self.main:
                await self._main_is_ending()
                if ended.code == 128 + signals.SIGKILL and self._oom is not None and self._oom.kills:
                    reason = "killed by the kernel: out of memory"
            self._note_end(process, ended, reason)

    async def _main_is_ending(self) -> None:
        """Execs end before the container does; without a pid namespace of its own they must be killed."""
        if self._oom is not None:
            self._oom.check()
        if not self._facts.own_pids:
            with contextlib.suppress(Failure, OrlopError):
                await self.runc.run("kill", "--all", self.id, "KILL")
        running = [process for process in self.execs.values() if process.state is TaskState.RUNNING]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXECS_DEADLINE):
                for process in running:
                    await process.wait()

    async def _undo(self) -> None:
        if self.main.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.main.pid, signals.SIGKILL)
        with contextlib.suppress(Failure, OrlopError):
            await self.runc.run("delete", "--force", self.id)
        for task in self._tasks:
            task.cancel()
        self._close()
        await self._root.unmount()

    def _close(self) -> None:
        if self._oom is not None:
            self._oom.close()
        self.main.close()
