"""What a shim tells of a container: containerd's events, into its journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orlop_protos.containerd.events import task_pb2 as events
from orlop_protos.containerd.types import mount_pb2
from orlopd.plugin.runtime import Stdio
from orlopd.plugin.values import Mount

from ..journal import Journal
from ..wire import to_timestamp
from .reaper import Ended


class Told:
    """Tells of one container. The order of the calls is that of the events.

    :param id: the container's
    """

    def __init__(self, journal: Journal, id: str) -> None:
        self._journal = journal
        self._id = id

    def created(self, bundle: Path, rootfs: Sequence[Mount], stdio: Stdio, checkpoint: str, pid: int) -> None:
        """The container was made."""
        io = events.TaskIO(
            stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr, terminal=stdio.terminal
        )
        mounts = [
            mount_pb2.Mount(type=item.type, source=item.source, target=item.target, options=item.options)
            for item in rootfs
        ]
        self._journal.add(
            events.TaskCreate(
                container_id=self._id,
                bundle=str(bundle),
                rootfs=mounts,
                io=io,
                checkpoint=checkpoint,
                pid=pid,
            )
        )

    def started(self, pid: int) -> None:
        """The main process runs."""
        self._journal.add(events.TaskStart(container_id=self._id, pid=pid))

    def exec_added(self, exec_id: str) -> None:
        """An exec was prepared."""
        self._journal.add(events.TaskExecAdded(container_id=self._id, exec_id=exec_id))

    def exec_started(self, exec_id: str, pid: int) -> None:
        """An exec runs."""
        self._journal.add(events.TaskExecStarted(container_id=self._id, exec_id=exec_id, pid=pid))

    def paused(self) -> None:
        """All processes are frozen."""
        self._journal.add(events.TaskPaused(container_id=self._id))

    def resumed(self) -> None:
        """They go on."""
        self._journal.add(events.TaskResumed(container_id=self._id))

    def out_of_memory(self) -> None:
        """The kernel killed for want of memory."""
        self._journal.add(events.TaskOOM(container_id=self._id))

    def ended(self, exec_id: str, pid: int, ended: Ended) -> None:
        """A process ended; "" is the main one."""
        self._journal.add(
            events.TaskExit(
                container_id=self._id,
                id=exec_id or self._id,
                pid=pid,
                exit_status=ended.code,
                exited_at=to_timestamp(ended.at),
            )
        )

    def deleted(self, pid: int, ended: Ended) -> None:
        """The container is no more; how its main process had ended."""
        self._journal.add(
            events.TaskDelete(
                container_id=self._id, pid=pid, exit_status=ended.code, exited_at=to_timestamp(ended.at)
            )
        )
