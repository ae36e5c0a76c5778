"""A task's folder: what lies on disk so that a later daemon finds the task, and the shim what it needs.

STATE/tasks/<namespace>/<id>/   config.json, task.json, shim.pid, shim.log, events.journal, rootfs/
STATE/s/<random>.sock           the shim's socket, elsewhere because a socket's path must be short
STATE/runc/<namespace>/         the OCI runtime's own state
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from orlopd.plugin.files import remove_tree
from orlopd.plugin.runtime import Stdio

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_MAX_IDENTIFIER = 76
_MAX_ADDRESS = 106
RECORD = "task.json"
PID = "shim.pid"


def check_id(what: str, value: str) -> str:
    """Return an id that may be a file's name. :raises InvalidArgument: it may not"""
    if len(value) > _MAX_IDENTIFIER or not _IDENTIFIER.fullmatch(value):
        raise InvalidArgument(
            f"malformed {what} {value[:100]!r}: want at most {_MAX_IDENTIFIER} letters and digits, "
            "joined by single '.', '-' or '_'"
        )
    return value


@dataclass(frozen=True, slots=True)
class Record:
    """What must be known of a task after a restart of the daemon.

    :param root: the OCI runtime's state folder for this task
    :param address: the path of the shim's socket
    :param protocol: what it speaks: "grpc", as those of earlier versions do, or "both", ttrpc as well
    """

    namespace: str
    id: str
    binary: str
    root: str
    address: str
    stdio: Stdio
    protocol: str = "grpc"


@dataclass(frozen=True, slots=True)
class Folder:
    """One task's folder. All methods block for a moment: call them in a thread."""

    path: Path

    @classmethod
    def make(cls, state: Path, namespace: str, id: str) -> Folder:
        """:raises AlreadyExists: the task is there"""
        parent = state / "tasks" / namespace
        for path in (state / "tasks", parent, state / "s", state / "runc"):
            path.mkdir(mode=0o711, exist_ok=True)
        path = parent / id
        try:
            path.mkdir(mode=0o700)
        except FileExistsError as error:
            raise AlreadyExists(f"task {id}: already exists", resource=f"task {id}") from error
        return cls(path)

    @classmethod
    def all(cls, state: Path) -> Iterator[Folder]:
        """Every task's folder."""
        for namespace in _folders(state / "tasks"):
            for path in _folders(namespace):
                yield cls(path)

    def write(self, name: str, data: bytes) -> None:
        """Put a file into place whole. It need not survive a reboot, so it is not synced."""
        fresh = self.path / f".{name}.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        fresh.rename(self.path / name)

    def write_record(self, record: Record) -> None:
        self.write(RECORD, json.dumps(asdict(record)).encode())

    def read_record(self) -> Record | None:
        """None where it is missing or unreadable: the task was never whole."""
        try:
            fields = json.loads((self.path / RECORD).read_bytes())
            return Record(**{**fields, "stdio": Stdio(**fields["stdio"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def remove(self) -> None:
        """Remove it, and its namespace's folder if it was the last. Nothing may be mounted below it."""
        if os.path.ismount(self.path / "rootfs"):
            raise FailedPrecondition(f"{self.path}/rootfs is still mounted")
        with contextlib.suppress(FileNotFoundError):
            remove_tree(self.path)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def new_address(state: Path) -> str:
    """A path for a shim's socket.

    :raises FailedPrecondition: the state folder's path is too long for one
    """
    address = str(state / "s" / f"{secrets.token_hex(12)}.sock")
    if len(os.fsencode(address)) > _MAX_ADDRESS:
        raise FailedPrecondition(
            f"the state folder's path {str(state)!r} is too long for a unix socket",
            hint="choose a shorter --state",
        )
    return address


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(item for item in path.iterdir() if item.is_dir() and not item.is_symlink())
    except FileNotFoundError:
        return []
