"""After a shim that died: end what it left, and write down how the story went. Everything here blocks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orlop_protos.containerd.events import task_pb2 as events
from orlopd.plugin import mount
from orlopd.plugin.errors import NotFound, OrlopError
from orlopd.plugin.runtime import Exit

from . import journal
from .folder import Folder, Record
from .shim import cgroups
from .shimlog import note_loss
from .shims import remove_sockets
from .wire import from_timestamp, to_timestamp

log = logging.getLogger(__name__)

LOST = "shim lost"
_MARKER = "lost"
_CODE = 128 + signal.SIGKILL
_DELETE_DEADLINE = 30.0
_END_DEADLINE = 3.0


@dataclass(frozen=True, slots=True)
class Lost:
    """What is left of a task whose shim died: its main process's pid and end."""

    pid: int
    end: Exit

    def end_of(self, exec_id: str) -> Exit:
        """:raises NotFound: for an exec; they are forgotten with their shim"""
        if exec_id:
            raise NotFound(f"process does not exist {exec_id}: not found", resource=f"exec {exec_id}")
        return self.end


def remove_empty_groups(namespaces: Iterable[str]) -> None:
    """Remove the control groups that containers of these namespaces lay in, where none lies there now.

    Runtimes remove a container's own group and leave the one above, which nobody else ever would.
    """
    top = Path("/sys/fs/cgroup")
    for namespace in namespaces:
        for group in (top / namespace, *top.glob(f"*/{namespace}")):
            with contextlib.suppress(OSError):  # not there, or in use
                group.rmdir()


def clean_up(folder: Folder, record: Record) -> None:
    """End a task's processes, remove its control group and its runtime's state, unmount its filesystem.

    Nothing to do is no error; what cannot be done is logged, the rest is done.
    """
    _kill_commands(folder.path)
    pid, _, execs = story(folder, record)
    pidfds = [fd for fd in map(_pidfd, [pid, *execs.values()]) if fd >= 0]
    try:
        binary = shutil.which(record.binary)
        if binary is not None:
            _runtime_delete(binary, record)
        _wait_for_end(pidfds)
    finally:
        for fd in pidfds:
            os.close(fd)
    _remove_groups(folder)
    rootfs = folder.path / "rootfs"
    if rootfs.is_dir():
        try:
            mount.unmount(rootfs, detach=True)
        except OrlopError as error:
            log.warning("cannot unmount %s: %s", rootfs, error)
    remove_sockets(record.address)


def bury(folder: Folder, record: Record) -> Lost:
    """Clean up after a dead shim; ends that it did not see are invented and written into its journal."""
    clean_up(folder, record)
    marker = folder.path / _MARKER
    pid, end, running = story(folder, record)
    if end is None:
        marker.touch()
        at = datetime.now(UTC)
        for process, its_pid in [*running.items(), (record.id, pid)]:
            message = events.TaskExit(
                container_id=record.id, id=process, pid=its_pid, exit_status=_CODE, exited_at=to_timestamp(at)
            )
            journal.append(folder.path / journal.FILE, message)
        end = Exit(_CODE, at)
        note_loss(folder.path, f"its container was killed, and counts as ended with code {_CODE}")
    else:
        note_loss(folder.path, f"its container had ended with code {end.code}")
    reason = LOST if marker.exists() else ""
    return Lost(pid, Exit(end.code, end.at, reason))


def story(folder: Folder, record: Record) -> tuple[int, Exit | None, dict[str, int]]:
    """The journal's account: the main process's pid, its end if known, and the execs not seen to end."""
    pid = 0
    end: Exit | None = None
    running: dict[str, int] = {}
    for item in journal.read(folder.path / journal.FILE):
        message = journal.unpack(item)
        if item.topic in ("/tasks/create", "/tasks/start"):
            pid = message.pid
        elif item.topic == "/tasks/exec-started":
            running[message.exec_id] = message.pid
        elif item.topic == "/tasks/exit" and message.id == record.id:
            end = Exit(message.exit_status, from_timestamp(message.exited_at))
        elif item.topic == "/tasks/exit":
            running.pop(message.id, None)
    return pid, end, running


def has(folder: Folder, topic: str) -> bool:
    """Whether the journal tells of such an event."""
    return any(item.topic == topic for item in journal.read(folder.path / journal.FILE))


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (OSError, ValueError):
        return -1


def _wait_for_end(pidfds: Sequence[int]) -> None:
    """crun's delete returns before those that it killed are gone."""
    until = time.monotonic() + _END_DEADLINE
    poll = select.poll()
    for fd in pidfds:
        poll.register(fd, select.POLLIN)
    left = len(pidfds)
    while left and time.monotonic() < until:
        for fd, _ in poll.poll(max(until - time.monotonic(), 0) * 1000):
            poll.unregister(fd)
            left -= 1


def _runtime_delete(binary: str, record: Record) -> None:
    line = [binary, "--root", record.root, "delete", "--force", record.id]
    said = ""
    for _ in range(3):
        try:
            done = subprocess.run(
                line,
                capture_output=True,
                text=True,
                timeout=_DELETE_DEADLINE,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("cannot delete what is left of task %s: %s", record.id, error)
            return
        said = done.stderr.strip()
        if not done.returncode or "does not exist" in said:
            return
        time.sleep(0.1)
    log.warning("cannot delete what is left of task %s: %s", record.id, said[-500:])


def _remove_groups(folder: Folder) -> None:
    """Remove the control groups of a container that its runtime does not know: one that was killed while it
    made the container, before it wrote down that there is one."""
    try:
        config = json.loads((folder.path / "config.json").read_bytes())
        inside = (config.get("linux") or {}).get("cgroupsPath")
    except (OSError, ValueError, AttributeError):
        return
    if not isinstance(inside, str):
        return
    for group in cgroups.groups_at(inside):
        pidfds = [fd for fd in map(_pidfd, cgroups.members(group)) if fd >= 0]
        try:
            for fd in pidfds:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            _wait_for_end(pidfds)
        finally:
            for fd in pidfds:
                os.close(fd)
        for path, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(path)  # noqa: PTH106
            except OSError as error:
                log.warning("cannot remove control group %s: %s", path, error)


def _kill_commands(folder: Path) -> None:
    """Kill commands of the runtime that were under way: their arguments name the task's folder."""
    killed: list[int] = []
    wanted = os.fsencode(folder) + b"/"
    exact = os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            args = (entry / "cmdline").read_bytes().split(b"\0")
            if b"--root" in args and any(arg == exact or arg.startswith(wanted) for arg in args):
                fd = os.pidfd_open(int(entry.name))
                killed.append(fd)
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except OSError:
            continue
    _wait_for_end(killed)  # or they would go on making what is to be removed
    for fd in killed:
        os.close(fd)
