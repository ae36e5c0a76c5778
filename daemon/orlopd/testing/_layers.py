"""Trees to make layers of, and what the differ kit's classes share."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orlopd.plugin.diff import Differ
from orlopd.plugin.mount import mount_points
from orlopd.plugin.values import Descriptor, Mount, sha256

from ._open import Factory, opened
from .blobs import MemoryBlob, MemoryIngest

TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP = f"{TAR}+gzip"
ZSTD = f"{TAR}+zstd"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
SECRET = "of the host"


class Host:
    """Folders of one test: a layer to fill, and a file outside that no archive may reach."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secret = path / "secret"
        self.secret.write_text(SECRET)
        self.secret.chmod(0o600)
        self.before = self.secret.stat()

    def folder(self, name: str) -> Path:
        """A fresh folder, or the one there is."""
        made = self.path / name
        made.mkdir(mode=0o755, exist_ok=True)
        return made

    def bind(self, name: str) -> list[Mount]:
        """Such a folder as mounts."""
        return [Mount("bind", str(self.folder(name)), ("rbind", "rw"))]

    def check(self) -> None:
        """Nothing outside the layer was touched."""
        after = self.secret.stat()
        assert self.secret.read_text() == SECRET
        assert (after.st_mode, after.st_nlink, after.st_mtime_ns, after.st_uid) == (
            *(self.before.st_mode, 1, self.before.st_mtime_ns, self.before.st_uid),
        )


def listing(root: Path) -> dict[str, Any]:
    """All there is to know of a tree, but times of access and of change."""
    names: dict[tuple[int, int], str] = {}
    found: dict[str, Any] = {}
    for path in (root, *sorted(root.rglob("*"))):
        info = path.lstat()
        name = str(path.relative_to(root))
        first = names.setdefault((info.st_dev, info.st_ino), name)
        what: Any = None
        if stat.S_ISLNK(info.st_mode):
            what = str(path.readlink())
        elif stat.S_ISREG(info.st_mode):
            what = path.read_bytes()
        elif not stat.S_ISDIR(info.st_mode):
            what = info.st_rdev
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in sorted(os.listxattr(path, follow_symlinks=False))
            if not key.startswith("trusted.overlay.")
        }
        found[name] = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, what, xattrs, first)
    return found


def below(root: Path) -> dict[str, Any]:
    """The same without the top directory itself, which no layer has an entry for."""
    found = listing(root)
    del found["."]
    return found


def rich_tree(root: Path) -> None:
    """One of everything."""
    (root / "etc").mkdir()
    (root / "etc/motd").write_text("hello")
    (root / "etc/motd").chmod(0o4751)
    os.chown(root / "etc/motd", 1000, 1 << 22)
    os.chmod(root / "etc/motd", 0o4751)  # noqa: PTH101 - chown cleared it
    os.utime(root / "etc/motd", ns=(0, 1_234_567_890_987_654_321))
    os.setxattr(root / "etc/motd", "user.colour", b"b\0lue\n")
    (root / "empty").touch()
    os.utime(root / "empty", ns=(0, -1_500_000_000))
    os.link(root / "etc/motd", root / "other-name")
    (root / "link").symlink_to("etc/motd")
    (root / "dangling").symlink_to("/nowhere/" + "x" * 300)
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    long = root / ("d" * 200)
    long.mkdir()
    (long / ("f" * 200)).write_text("long")
    (root / "ünï©ode\n").write_text("odd")
    (root / "big").write_bytes(os.urandom(3 << 20))
    with (root / "sparse").open("wb") as file:
        file.truncate(8 << 20)
        for at in (1 << 20, 5 << 20):
            file.seek(at)
            file.write(b"data" * 1024)
    (root / "etc").chmod(0o1777)
    os.utime(root / "etc", ns=(0, 77_000_000_007))


@pytest.mark.anyio
class DifferBase:
    """The fixtures of the differ kit."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def factory(self) -> Factory[Differ]:
        """How to make the differ."""
        raise NotImplementedError("define a fixture 'factory' that returns how to make the differ")

    @pytest.fixture
    def host(self, tmp_path: Path) -> Host:
        return Host(tmp_path)

    @pytest.fixture
    async def differ(
        self, factory: Factory[Differ], host: Host, anyio_backend: Any
    ) -> AsyncGenerator[Differ]:
        async with opened(factory, host.folder("differ")) as part:
            yield part
        assert mount_points(host.path) == []
        host.check()

    async def apply(
        self, differ: Differ, mounts: Sequence[Mount], data: bytes, media_type: str = TAR
    ) -> Descriptor:
        """Apply a layer that is in no file."""
        return await differ.apply(Descriptor(media_type, sha256(data), len(data)), MemoryBlob(data), mounts)

    async def diff(
        self, differ: Differ, lower: Sequence[Mount], upper: Sequence[Mount], media_type: str = TAR
    ) -> tuple[bytes, str]:
        """A layer and its diff id."""
        sink = MemoryIngest()
        diff_id = await differ.diff(lower, upper, media_type, sink)
        return bytes(sink.data), diff_id


def children() -> set[int]:
    """Every process below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found
