"""EROFS images: made by mkfs.erofs, mounted from the file itself; before Linux 6.12 through a loop device."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from orlopd.plugin.errors import Internal, OrlopError, Skip, Unimplemented
from orlopd.plugin.files import disk_full, remove_tree
from orlopd.plugin.mount import mount, unmount
from orlopd.plugin.values import Mount, Usage

SECONDS = 3600
_SUPERBLOCK = 1024
_MAGIC = 0xE0F5E1E2


def make(folder: Path, image: Path, *, compression: str) -> None:
    """Write ``folder`` into an image. What is at ``image`` is replaced when it is done.

    :param compression: what mkfs.erofs knows: lz4, lz4hc; empty for none
    :raises Internal: mkfs.erofs refused
    :raises ResourceExhausted: the disk is full
    """
    new = image.with_name(image.name + ".new")
    new.unlink(missing_ok=True)
    command = ["mkfs.erofs", "--quiet", *([f"-z{compression}"] if compression else [])]
    try:
        done = subprocess.run(
            [*command, str(new), str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[-300:]
            if "No space left" in said:
                raise disk_full(f"cannot write {str(new)!r}")
            raise Internal(f"mkfs.erofs of {str(folder)!r} ended with code {done.returncode}: {said}")
        new.rename(image)
    except subprocess.TimeoutExpired as error:
        raise Internal(f"mkfs.erofs of {str(folder)!r} took more than {SECONDS} seconds") from error
    finally:
        new.unlink(missing_ok=True)


def usage(image: Path) -> Usage:
    """The inodes in an image, and what it takes on disk. :raises Internal: it is no image"""
    with image.open("rb") as file:
        file.seek(_SUPERBLOCK)
        head = file.read(24)
    if len(head) < 24 or int.from_bytes(head[:4], "little") != _MAGIC:
        raise Internal(f"{str(image)!r} is no EROFS image")
    return Usage(int.from_bytes(head[16:24], "little"), image.stat().st_blocks * 512)


def is_mounted(point: Path) -> bool:
    """Whether something is mounted on a folder. :raises OSError: there is no such folder"""
    return os.lstat(point).st_dev != os.lstat(point.parent).st_dev


def show(image: Path, point: Path, *, loop: bool) -> None:
    """Mount an image. Raises as :func:`orlopd.plugin.mount.mount`."""
    mount(Mount("erofs", str(image), ("ro", "loop") if loop else ("ro",)), point)


def probe(root: Path) -> bool:
    """Make an image in ``root`` and mount it.

    :returns: whether that takes a loop device
    :raises Skip: it does not work, and why
    """
    if shutil.which("mkfs.erofs") is None:
        raise Skip("there is no mkfs.erofs on this machine (Debian's package erofs-utils)")
    for stale in root.glob("probe-*"):
        _remove(stale)
    scratch = root / f"probe-{os.urandom(4).hex()}"
    folder, image, point = scratch / "folder", scratch / "image", scratch / "point"
    for path in (scratch, folder, point):
        path.mkdir(mode=0o700)
    try:
        make(folder, image, compression="")
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
