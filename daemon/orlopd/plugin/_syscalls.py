"""mount(2), umount2(2) and the newer mount calls, which Python's os does not have."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
PR_SET_PDEATHSIG = 1


class MS:
    """The flags of mount(2), from linux/mount.h."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    SYNCHRONOUS = 16
    REMOUNT = 32
    MANDLOCK = 64
    DIRSYNC = 128
    NOSYMFOLLOW = 256
    NOATIME = 1024
    NODIRATIME = 2048
    BIND = 4096
    MOVE = 8192
    REC = 16384
    SILENT = 32768
    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20
    RELATIME = 1 << 21
    STRICTATIME = 1 << 24
    LAZYTIME = 1 << 25


# The new calls have one number on every architecture but alpha.
_OPEN_TREE, _MOUNT_SETATTR = 428, 442
OPEN_TREE_CLONE = 1
AT_EMPTY_PATH = 0x1000
MOUNT_ATTR_IDMAP = 0x100000
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_SET_FD, FSCONFIG_CMD_CREATE = 0, 1, 5, 6
MOVE_MOUNT_F_EMPTY_PATH = 4


def _failed(path: str = "", detail: str = "") -> OSError:
    number = ctypes.get_errno()
    return OSError(number, detail or os.strerror(number), path or None)


def libc_mount(source: str, target: str, type: str, flags: int, data: str) -> None:
    """mount(2). :raises OSError: as the call"""
    text = os.fsencode(data) if data else None
    if _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(type) or None, flags, text) != 0:
        raise _failed(target)


def libc_umount(target: str, flags: int) -> None:
    """umount2(2). :raises OSError: as the call"""
    if _libc.umount2(os.fsencode(target), flags) != 0:
        raise _failed(target)


def unshare(flags: int) -> None:
    """unshare(2); with CLONE_FS it is for the calling thread alone. :raises OSError: as the call"""
    if _libc.unshare(flags) != 0:
        raise _failed()


def prctl(option: int, argument: int) -> None:
    """prctl(2) with one argument. :raises OSError: as the call"""
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        raise _failed()


def clone_tree(path: str) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a copy of the mount at ``path``, from there on, attached nowhere.

    :raises OSError: as the call
    """
    fd = _libc.syscall(
        ctypes.c_long(_OPEN_TREE),
        ctypes.c_int(-100),
        os.fsencode(path),
        ctypes.c_uint(OPEN_TREE_CLONE | os.O_CLOEXEC),
    )
    if fd < 0:
        raise _failed(path)
    return fd


def set_idmap(fd: int, namespace: int) -> None:
    """mount_setattr(2) with MOUNT_ATTR_IDMAP. :raises OSError: as the call"""
    attributes = (ctypes.c_uint64 * 4)(
        MOUNT_ATTR_IDMAP, 0, 0, namespace
    )  # set, clear, propagation, userns_fd
    done = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(fd),
        b"",
        ctypes.c_uint(AT_EMPTY_PATH),
        attributes,
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    if done != 0:
        raise _failed()


def attach_tree(fd: int, target: str) -> None:
    """move_mount(2): attach what :func:`clone_tree` gave to ``target``. :raises OSError: as the call"""
    moved = _libc.syscall(
        ctypes.c_long(_MOVE_MOUNT),
        ctypes.c_int(fd),
        b"",
        ctypes.c_int(-100),
        os.fsencode(target),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH | 0x10),
    )
    if moved != 0:
        raise _failed(target)


class FilesystemContext:
    """A mount being configured by fsopen(2): options one by one, so that no page limits them."""

    def __init__(self, type: str) -> None:
        self.fd = _libc.syscall(ctypes.c_long(_FSOPEN), os.fsencode(type), ctypes.c_uint(FSOPEN_CLOEXEC))
        if self.fd < 0:
            raise _failed()

    def _config(self, command: int, key: str | None, value: str | None, aux: int = 0) -> None:
        done = _libc.syscall(
            ctypes.c_long(_FSCONFIG),
            ctypes.c_int(self.fd),
            ctypes.c_uint(command),
            ctypes.c_char_p(os.fsencode(key) if key is not None else None),
            ctypes.c_char_p(os.fsencode(value) if value is not None else None),
            ctypes.c_int(aux),
        )
        if done != 0:
            number = ctypes.get_errno()
            raise OSError(number, self._message() or os.strerror(number))

    def _message(self) -> str:
        try:
            lines = os.read(self.fd, 4096).decode(errors="replace")
        except OSError:
            return ""
        return lines.partition(" ")[2].strip()  # "e overlay: …"

    def set_flag(self, key: str) -> None:
        """Set an option without a value."""
        self._config(FSCONFIG_SET_FLAG, key, None)

    def set_string(self, key: str, value: str) -> None:
        """Set an option; the kernel takes up to 255 bytes."""
        self._config(FSCONFIG_SET_STRING, key, value)

    def set_fd(self, key: str, fd: int) -> None:
        """Set an option to an open file."""
        self._config(FSCONFIG_SET_FD, key, None, fd)

    def mount(self, target: str, attributes: int) -> None:
        """Make the filesystem and attach it to ``target``."""
        self._config(FSCONFIG_CMD_CREATE, None, None)
        fd = _libc.syscall(
            ctypes.c_long(_FSMOUNT),
            ctypes.c_int(self.fd),
            ctypes.c_uint(FSMOUNT_CLOEXEC),
            ctypes.c_uint(attributes),
        )
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, self._message() or os.strerror(number))
        try:
            moved = _libc.syscall(
                ctypes.c_long(_MOVE_MOUNT),
                ctypes.c_int(fd),
                b"",
                ctypes.c_int(-100),
                os.fsencode(target),
                ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH | 0x10),  # T_SYMLINKS: /proc/self/fd/N
            )
            if moved != 0:
                raise _failed(target)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the context."""
        os.close(self.fd)
