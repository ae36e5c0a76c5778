"""Disks for tests: one whose power can be cut, one that is small, one whose free blocks are bad."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from orlopd.plugin.mount import mount_points
from tests.support.daemon import eventually

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2


class Ext4:
    """An ext4 in a file, mounted. A context manager.

    Its journal commits by itself only after minutes, so that what nobody synced is lost when power is cut.

    :param size: in MiB
    :param solid: whether every block of the image is to be really there
    """

    def __init__(self, image: Path, point: Path, size: int, *, solid: bool = False) -> None:
        self._image = image
        self._as_cut = image.with_name(f"{image.name}.cut")
        self._solid = solid
        self.point = point
        self._size = size

    def __enter__(self) -> Self:
        with self._image.open("wb") as file:
            file.truncate(self._size << 20)
        _run("mkfs.ext4", "-q", "-F", "-J", "size=8", "-E", "lazy_itable_init=0,nodiscard", str(self._image))
        if self._solid:
            with self._image.open("r+b") as file:
                file.write(self._image.read_bytes())
        self.point.mkdir(mode=0o700, exist_ok=True)
        self._mount()
        self.point.chmod(0o700)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unmount(self.point)
        self._image.unlink()
        self._as_cut.unlink(missing_ok=True)

    def _mount(self) -> None:
        # A device of its own each time: the one before, shut down, may live on for a while in the mount
        # namespace of somebody who began one meanwhile.
        device = _run("losetup", "--find", "--show", str(self._image)).strip()
        try:
            _run("mount", "-o", "commit=300,errors=remount-ro", device, str(self.point))
        finally:
            _run("losetup", "--detach", device)  # when it is unmounted

    def cut(self) -> None:
        """Cut its power: nothing more reaches the disk, and what is in memory is lost."""
        fd = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
            # Taken while it is open: whoever lets go of it last has its superblock written, at a time of
            # their own, and that would be into what was mended meanwhile.
            _run("cp", str(self._image), str(self._as_cut))
        finally:
            os.close(fd)

    def break_down(self) -> None:
        """Have the kernel find the filesystem damaged: it goes read-only, with files open for writing."""
        device = os.stat(self.point).st_dev  # noqa: PTH116
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")

    def discard(self) -> None:
        """Give the blocks that are free back to what the image is on."""
        _run("fstrim", str(self.point))

    def mend(self) -> None:
        """After a cut: mount it again; the journal is replayed. Whoever used it must be gone; what is mounted
        in it, the power cut would have taken."""
        for inside in reversed(mount_points(self.point)[1:]):
            unmount(Path(inside))
        unmount(self.point)
        if self._as_cut.exists():
            self._as_cut.replace(self._image)
        done = subprocess.run(["e2fsck", "-p", str(self._image)], capture_output=True, text=True)
        assert done.returncode in {0, 1}, f"e2fsck: {done.stdout}{done.stderr}"
        self._mount()


def unmount(point: Path) -> None:
    """Unmount, and wait for whoever lets go last."""

    def tried() -> str:
        return subprocess.run(["umount", str(point)], capture_output=True, text=True).stderr

    said = eventually(tried, lambda said: "busy" not in said, 20)
    if said:
        raise RuntimeError(f"cannot unmount {point}: {said}")


class Tmpfs:
    """A small filesystem in memory. A context manager.

    :param size: in MiB
    """

    def __init__(self, point: Path, size: int) -> None:
        self._point = point
        self._size = size

    def __enter__(self) -> Self:
        self._point.mkdir(mode=0o700, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self._size}m,mode=700", "tmpfs", str(self._point))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unmount(self._point)

    @property
    def _filler(self) -> Path:
        return self._point / "filler"

    def fill(self, leave: int = 0) -> None:
        """Take all space but ``leave`` bytes."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while (free := shutil.disk_usage(self._point).free - leave) > 0:
                file.write(b"\0" * min(free, 1 << 20))

    def free(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
