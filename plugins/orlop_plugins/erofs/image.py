"""EROFS images: made, settled on those below, and mounted: from the file itself, before Linux 6.12 through a
loop device."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin.errors import Internal, OrlopError, Skip, Unimplemented
from orlopd.plugin.files import Folder, disk_full, remove_tree
from orlopd.plugin.mount import mount, unmount
from orlopd.plugin.rebase import Below
from orlopd.plugin.values import Mount, Usage

from .blocks import Blocks
from .folder import write_folder
from .metadata import AT, MAGIC, patch_root, write
from .nodes import Marks
from .reader import read_root, read_tree
from .settle import settle, settle_root

IMAGE = "layer.erofs"
"""A snapshot's image."""
NEW = "layer.erofs.new"
"""What becomes it: while it is there, empty, a layer may be unpacked into it."""
SECONDS = 3600


def make(folder: Path, image: Path, *, compression: str) -> None:
    """Write ``folder`` into an image. What is at ``image`` is replaced when it is done.

    :param compression: what mkfs.erofs knows: lz4, lz4hc; empty for none, which takes no mkfs.erofs
    :raises InvalidArgument: something cannot be in an image
    :raises Internal: mkfs.erofs refused
    :raises ResourceExhausted: the disk is full
    :raises OSError: something cannot be read or written
    """
    new = image.with_name(NEW)
    new.unlink(missing_ok=True)
    try:
        if compression:
            _compress(folder, new, compression)
        else:
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                write_folder(folder, fd)
            finally:
                os.close(fd)
        new.rename(image)
    finally:
        new.unlink(missing_ok=True)


def _compress(folder: Path, new: Path, compression: str) -> None:
    try:
        done = subprocess.run(
            ["mkfs.erofs", "--quiet", f"-z{compression}", str(new), str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Internal(f"mkfs.erofs of {str(folder)!r} took more than {SECONDS} seconds") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-300:]
        if "No space left" in said:
            raise disk_full(f"cannot write {str(new)!r}")
        raise Internal(f"mkfs.erofs of {str(folder)!r} ended with code {done.returncode}: {said}")


def put_on(image: Path, lowers: Sequence[Path], *, userxattr: bool) -> None:
    """Fit an image that a layer was unpacked into to the directories below it, topmost first.

    Wherever this is interrupted, the image is as before or as it shall be, and it may be done again.

    :raises OSError: the image cannot be written
    """
    marks = Marks.of(userxattr=userxattr)
    below = Below([Folder.open(path) for path in lowers], userxattr=userxattr)
    fd = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        root = read_root(fd)
        said = (root.xattrs or {}).get(marks.plain)
        if said is None:
            return  # it was done before
        if said == b"y":
            settle_root(root, below, marks)
            if patch_root(fd, root):
                return
        root = read_tree(fd)
        settle(root, below, marks)
        write(Blocks(fd, os.fstat(fd).st_size), fd, root)
    finally:
        os.close(fd)


def usage(image: Path) -> Usage:
    """The inodes in an image, and what it takes on disk. :raises Internal: it is no image"""
    with image.open("rb") as file:
        file.seek(AT)
        head = file.read(24)
    if len(head) < 24 or int.from_bytes(head[:4], "little") != MAGIC:
        raise Internal(f"{str(image)!r} is no EROFS image")
    return Usage(int.from_bytes(head[16:24], "little"), image.stat().st_blocks * 512)


def is_mounted(point: Path) -> bool:
    """Whether something is mounted on a folder. :raises OSError: there is no such folder"""
    return os.lstat(point).st_dev != os.lstat(point.parent).st_dev


def show(image: Path, point: Path, *, loop: bool) -> None:
    """Mount an image. Raises as :func:`orlopd.plugin.mount.mount`."""
    mount(Mount("erofs", str(image), ("ro", "loop") if loop else ("ro",)), point)


def probe(root: Path, *, compression: str = "") -> bool:
    """Make an image in ``root`` and mount it.

    :param compression: as :func:`make` takes it
    :returns: whether that takes a loop device
    :raises Skip: it does not work, and why
    """
    if compression and shutil.which("mkfs.erofs") is None:
        raise Skip("there is no mkfs.erofs to compress with on this machine (Debian's package erofs-utils)")
    for stale in root.glob("probe-*"):
        _remove(stale)
    scratch = root / f"probe-{os.urandom(4).hex()}"
    folder, image, point = scratch / "folder", scratch / "image", scratch / "point"
    for path in (scratch, folder, point):
        path.mkdir(mode=0o700)
    try:
        make(folder, image, compression=compression)
        try:
            show(image, point, loop=False)
        except Unimplemented as error:
            raise Skip("this kernel has no EROFS") from error
        except OrlopError:
            show(image, point, loop=True)
            return True
        return False
    except OrlopError as error:
        raise Skip(f"EROFS cannot be used at {str(root)!r}: {error.message}") from error
    finally:
        _remove(scratch)


def _remove(scratch: Path) -> None:
    with contextlib.suppress(OrlopError, OSError):
        unmount(scratch, detach=True)
        remove_tree(scratch)
