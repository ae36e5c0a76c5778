"""Mounting an overlay of many layers.

mount(2) takes one page of options. Where the absolute paths of the layers do not fit, they are written
relative to the folder that they share; where that does not fit either, each layer is handed over by itself
(``lowerdir+``, Linux 6.8).
"""

# Descriptors, and paths that are no Path.
# ruff: noqa: PTH115, PTH117, PTH120, PTH123

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence

from . import _idmap
from ._syscalls import CLONE_FS, MS, FilesystemContext, libc_mount, unshare
from .errors import InvalidArgument

MAX_LAYERS = 500
"""The kernel's limit on lower layers (fs/overlayfs, OVL_MAX_STACK)."""

_MAPS = ("uidmap", "gidmap")
"""Options that are ours: lower layers show their owners through these maps, as containerd has them."""

_ATTRIBUTES = {
    MS.RDONLY: 0x1,
    MS.NOSUID: 0x2,
    MS.NODEV: 0x4,
    MS.NOEXEC: 0x8,
    MS.NOATIME: 0x10,
    MS.STRICTATIME: 0x20,
    MS.NODIRATIME: 0x80,
    MS.NOSYMFOLLOW: 0x200000,
}


def escape(path: str, *, lower: bool = False) -> str:
    """Write a path so that it survives in overlay's options: ``,`` and ``\\`` always, ``:`` in lowerdir."""
    return re.sub(r"[\\,:]" if lower else r"[\\,]", lambda match: "\\" + match[0], path)


def default(option: str) -> str:
    """What an option is where a mount does not say: Y or N; empty where the kernel does not know it."""
    try:
        with open(f"/sys/module/overlay/parameters/{option}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def split_lower(value: str) -> list[str]:
    """The paths in a ``lowerdir=`` value, topmost first, unescaped."""
    return [unescape(part) for part in re.split(r"(?<!\\):", value) if part]


def unescape(text: str) -> str:
    """Undo :func:`escape`."""
    return re.sub(r"\\(.)", r"\1", text)


def mount(source: str, target: str, flags: int, data: Sequence[str], page: int) -> None:
    """Mount an overlay with the options ``data``.

    :raises OSError: the kernel refused
    :raises InvalidArgument: more than 500 layers
    """
    lower = next((option for option in data if option.startswith("lowerdir=")), "")
    lowers = split_lower(lower.removeprefix("lowerdir="))
    if len(lowers) > MAX_LAYERS:
        raise InvalidArgument(
            f"an overlay of {len(lowers)} layers: the kernel stacks {MAX_LAYERS} at most",
            reason="TOO_MANY_LAYERS",
            hint="flatten the image, or use the snapshotter vfs",
        )
    maps = {key: value for key, _, value in (option.partition("=") for option in data) if key in _MAPS}
    if maps:
        rest = [option for option in data if not option.startswith(tuple(f"{key}=" for key in _MAPS))]
        uids, gids = (_idmap.parse(key, maps.get(key) or _idmap.SAME) for key in _MAPS)
        with _idmap.idmapped(lowers, uids, gids) as fds:
            _mount_each(source, target, flags, rest, fds)
        return
    text = ",".join(data)
    if len(os.fsencode(text)) < page:
        libc_mount(source, target, "overlay", flags, text)
        return
    folder, short = _relative(data, lowers)
    if len(os.fsencode(short)) < page and os.path.isabs(target):
        _mount_from(folder, source, target, flags, short)
        return
    _mount_each(source, target, flags, data, lowers)


def _relative(data: Sequence[str], lowers: Sequence[str]) -> tuple[str, str]:
    folder = os.path.commonpath(lowers)
    if folder in lowers:
        folder = os.path.dirname(folder)
    parts: list[str] = []
    for option in data:
        if option.startswith("lowerdir="):
            option = "lowerdir=" + ":".join(escape(os.path.relpath(p, folder), lower=True) for p in lowers)
        parts.append(option)
    return folder, ",".join(parts)


def _mount_from(folder: str, source: str, target: str, flags: int, data: str) -> None:
    # A working directory is a thread's own after unshare(CLONE_FS); the thread ends with it.
    failure: list[OSError] = []

    def run() -> None:
        try:
            unshare(CLONE_FS)
            os.chdir(folder)
            libc_mount(source, target, "overlay", flags, data)
        except OSError as error:
            failure.append(error)

    if target.startswith("/proc/self/"):  # "self" is the process, but descriptors are looked up by thread too
        target = os.readlink(target)
    thread = threading.Thread(target=run, name="overlay-mount")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _mount_each(
    source: str, target: str, flags: int, data: Sequence[str], lowers: Sequence[str] | Sequence[int]
) -> None:
    context = FilesystemContext("overlay")
    try:
        context.set_string("source", source)
        if flags & MS.RDONLY:
            context.set_flag("ro")
        for lower in lowers:
            if isinstance(lower, int):
                context.set_fd("lowerdir+", lower)
            else:
                _set_path(context, "lowerdir+", lower)
        for option in data:
            key, equals, value = option.partition("=")
            if key in ("upperdir", "workdir"):
                _set_path(context, key, unescape(value))
            elif key != "lowerdir":
                context.set_string(key, value) if equals else context.set_flag(key)
        context.mount(target, sum(bit for flag, bit in _ATTRIBUTES.items() if flags & flag))
    finally:
        context.close()


def _set_path(context: FilesystemContext, key: str, path: str) -> None:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        context.set_fd(key, fd)
    except OSError:  # before Linux 6.13 paths are strings
        context.set_string(key, path)
    finally:
        os.close(fd)
