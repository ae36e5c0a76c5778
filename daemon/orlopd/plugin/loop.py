"""Files as block devices (loop(4))."""

# Descriptors and devices.

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Generator
from contextlib import contextmanager

_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_CLEAR = 0x4C01
_READ_ONLY, _AUTOCLEAR = 1, 4
_ATTEMPTS = 50
# struct loop_config with its loop_info64 (linux/loop.h): file, block size; five numbers, of which offset and
# size limit are the last; three more; flags; names and keys; reserved.
_CONFIG = struct.Struct("=II 3QQQ 3II 64s64s32s2Q 8Q")


@contextmanager
def attached(path: str, *, readonly: bool = True) -> Generator[str]:
    """Give a file a loop device for the time of a ``with`` block; what is mounted by then keeps it.

    The device goes by itself when it is last unmounted.

    :returns: the device's path
    :raises OSError: the file cannot be opened, or there are no loop devices here
    """
    file = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    try:
        device, fd = _attach(file, path, readonly)
    finally:
        os.close(file)
    try:
        yield device
    finally:
        os.close(fd)


def attach(path: str, *, readonly: bool = True) -> str:
    """Give a file a loop device until :func:`detach`. Raises as :func:`attached`.

    :returns: the device's path
    """
    file = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    try:
        device, fd = _attach(file, path, readonly, stays=True)
    finally:
        os.close(file)
    os.close(fd)
    return device


def detach(device: str) -> None:
    """Take a loop device from its file, once nobody has it open. One without a file is no error.

    :raises OSError: as ioctl(2)
    """
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _CLEAR)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def _attach(file: int, path: str, readonly: bool, *, stays: bool = False) -> tuple[str, int]:
    flags = (0 if stays else _AUTOCLEAR) | (_READ_ONLY if readonly else 0)
    name = os.fsencode(path)[:63]
    config = _CONFIG.pack(file, 0, *[0] * 5, *[0] * 3, flags, name, b"", b"", 0, 0, *[0] * 8)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            fd = os.open(device, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:  # somebody else took it first
                    raise
            else:
                return device, fd
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "every loop device that was free was taken by others", path)
