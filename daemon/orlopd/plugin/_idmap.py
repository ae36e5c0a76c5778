"""Mounts that show other owners (mount_setattr(2), MOUNT_ATTR_IDMAP), for containers in user namespaces."""

# Links of /proc, whose targets are no paths.
# ruff: noqa: PTH115

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ._syscalls import attach_tree, clone_tree, set_idmap
from .errors import InvalidArgument, Unimplemented

SAME = "0:0:4294967295"
"""The map that changes nothing."""

_SECONDS = 10.0
_MOST = 340
"""user_namespaces(7): as many lines as a map may have."""


def parse(option: str, value: str) -> str:
    """The lines of a map in /proc/PID/uid_map, from containerd's way to write it: ``CONTAINER:HOST:SIZE,…``.

    :raises InvalidArgument: it is malformed
    """
    lines: list[str] = []
    for entry in value.split(","):
        parts = entry.split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts) or int(parts[2]) == 0:
            raise InvalidArgument(f"malformed mount option {option}={value!r}: want CONTAINER:HOST:SIZE")
        lines.append(" ".join(parts))
    if len(lines) > _MOST:
        raise InvalidArgument(f"mount option {option} has {len(lines)} ranges: {_MOST} is the most")
    return "\n".join(lines)


@contextmanager
def user_namespace(uids: str, gids: str) -> Generator[int]:
    """A user namespace with these maps, for the time of a ``with`` block; its descriptor.

    :raises Unimplemented: there is none to be had here
    """
    import subprocess  # here: who mounts without maps, a shim mostly, is not to pay for it

    # A process of another program: this one may have threads, which do not survive a fork in good order.
    command, null = ("unshare", "--user", "cat"), subprocess.DEVNULL
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null)
    except OSError as error:
        raise Unimplemented(f"cannot make a user namespace: unshare: {error.strerror}") from error
    fd = -1
    try:
        own = os.readlink("/proc/self/ns/user")
        deadline = time.monotonic() + _SECONDS
        while _link(holder.pid) in ("", own):
            if holder.poll() is not None or time.monotonic() > deadline:
                raise Unimplemented("cannot make a user namespace: the kernel refused")
            time.sleep(0.001)
        try:
            Path(f"/proc/{holder.pid}/uid_map").write_text(uids)
            Path(f"/proc/{holder.pid}/gid_map").write_text(gids)
        except OSError as error:
            raise InvalidArgument(f"cannot map ids as asked: {error.strerror}") from error
        fd = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)
        holder.kill()
        with contextlib.suppress(OSError):
            holder.communicate()


def _link(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return ""


@contextmanager
def idmapped(paths: Sequence[str], uids: str, gids: str) -> Generator[list[int]]:
    """Clones of directories' mounts that show their owners through the maps, attached nowhere; descriptors.

    :raises OSError: the filesystem or the kernel cannot
    """
    with contextlib.ExitStack() as stack, user_namespace(uids, gids) as namespace:
        fds: list[int] = []
        for path in paths:
            fd = clone_tree(path)
            stack.callback(os.close, fd)
            set_idmap(fd, namespace)
            fds.append(fd)
        yield fds


def bind(source: str, target: str, uids: str, gids: str) -> None:
    """Show ``source`` at ``target`` through the maps. Raises as :func:`idmapped`."""
    with idmapped([source], uids, gids) as (fd,):
        attach_tree(fd, target)
