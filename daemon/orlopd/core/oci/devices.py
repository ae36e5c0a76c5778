"""Device nodes of the machine for a container: ``/dev/fuse``, or a folder of nodes.

Everything here blocks for a moment: it looks at nodes.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orlopd.plugin.errors import InvalidArgument, NotFound

from .types import Device, DeviceRule

ALL = "rwm"
_MOST = 1024
# What a container has of its own, and what is no device.
_NOT_PASSED_ON = frozenset(("pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"))


@dataclass(frozen=True, slots=True)
class SpecDevice:
    """A device of a request: a node or folder by ``path``, or by its qualified CDI name."""

    path: str = ""
    cdi: str = ""
    target: str = ""
    permissions: str = ""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Device nodes and the rules that open them."""

    devices: tuple[Device, ...] = ()
    rules: tuple[DeviceRule, ...] = ()


def find_nodes(wanted: Sequence[SpecDevice], *, owned: bool = True) -> Nodes:
    """The nodes that a request names.

    :param owned: give the nodes inside the owner and group that they have outside
    :raises NotFound: a path is not there
    :raises InvalidArgument: it is no device, or a target or permission makes no sense
    """
    devices: dict[str, Device] = {}
    rules: list[DeviceRule] = []
    for item in wanted:
        if not item.path:
            continue
        access = check_access(item.permissions)
        target = item.target or item.path
        for path in (item.path, target):
            if not path.startswith("/") or "\0" in path:
                raise InvalidArgument(f"device {path[:200]!r} is not an absolute path", reason="BAD_DEVICE")
        target = posixpath.normpath("/" + target.lstrip("/"))
        for source, place in _nodes(item.path, target):
            device, rule = node(source, place, access, owned=owned)
            devices[place] = device
            rules.append(rule)
    return Nodes(tuple(devices.values()), tuple(rules))


def host_nodes(folder: Path = Path("/dev")) -> Nodes:
    """Every device of the machine, for a privileged container."""
    devices: list[Device] = []
    for source, place in _walk(str(folder), str(folder)):
        devices.append(node(source, place, ALL)[0])
    return Nodes(tuple(devices), (DeviceRule(allow=True, access=ALL),))


def node(source: str, place: str, access: str, *, owned: bool = True) -> tuple[Device, DeviceRule]:
    """A node of the machine as it is to be inside. :raises NotFound: it is not there"""
    try:
        found = os.stat(source)  # noqa: PTH116
    except (OSError, ValueError) as error:
        raise _missing(source) from error
    kind = device_type(found.st_mode)
    if not kind:
        raise InvalidArgument(f"{source!r} is no device", reason="NO_DEVICE", resource=f"path {source}")
    device = Device(path=place, type=kind, fileMode=stat.S_IMODE(found.st_mode))
    rule = DeviceRule(allow=True, type=kind, access=access)
    if kind != "p":
        major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        device["major"] = rule["major"] = major
        device["minor"] = rule["minor"] = minor
    if owned:
        device["uid"], device["gid"] = found.st_uid, found.st_gid
    return device, rule


def device_type(mode: int) -> str:
    """``c``, ``b`` or ``p`` by a file's mode; "" for anything else."""
    if stat.S_ISCHR(mode):
        return "c"
    if stat.S_ISBLK(mode):
        return "b"
    return "p" if stat.S_ISFIFO(mode) else ""


def check_access(text: str) -> str:
    """Permissions, all of them when empty. :raises InvalidArgument: other letters than r, w and m"""
    if not text:
        return ALL
    if set(text) - set(ALL) or len(set(text)) != len(text):
        raise InvalidArgument(
            f"device permissions {text[:40]!r}: want some of rwm, for read, write and mknod",
            reason="BAD_DEVICE",
        )
    return text


def _nodes(source: str, target: str) -> Iterator[tuple[str, str]]:
    try:
        folder = stat.S_ISDIR(os.stat(source).st_mode)  # noqa: PTH116
    except (OSError, ValueError) as error:
        raise _missing(source) from error
    if not folder:
        yield source, target
        return
    found = list(_walk(source, target))
    if not found:
        raise InvalidArgument(f"there is no device in folder {source!r}", reason="NO_DEVICE")
    yield from found


def _walk(source: str, target: str) -> Iterator[tuple[str, str]]:
    pending, count = [(source, target)], 0
    while pending:
        folder, place = pending.pop()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                inner = f"{place.rstrip('/')}/{entry.name}"
                if entry.name in _NOT_PASSED_ON:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, inner))
                elif device_type(entry.stat(follow_symlinks=False).st_mode) in ("c", "b"):
                    count += 1
                    if count > _MOST:
                        raise InvalidArgument(f"more than {_MOST} devices in {source!r}", reason="BAD_DEVICE")
                    yield entry.path, inner


def _missing(path: str) -> NotFound:
    return NotFound(
        f"device {path[:200]!r} is not there", reason="DEVICE_NOT_FOUND", resource=f"path {path[:200]}"
    )
