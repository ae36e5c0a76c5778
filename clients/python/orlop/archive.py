"""Tar streams of what lies on this machine, for ``Images.build`` and ``Containers.copy_in``.

The same tree makes the same bytes: entries are sorted by name, owners are numbers, times whole seconds, and
nothing of this machine (user names, extended attributes, inode numbers) gets in.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from anyio import to_thread

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20
END = bytes(2 * BLOCK)


def tree(root: Path) -> Iterator[bytes]:
    """The tar of what is below ``root``, chunk by chunk. Sockets are left out, hard links stay linked.

    :raises OSError: something cannot be read, or changed while it was read
    """
    links: dict[tuple[int, int], str] = {}
    for path, name in _walk(root, ""):
        yield from _entry(path, name, links)
    yield END


def copies(pairs: list[tuple[Path, str]]) -> Iterator[bytes]:
    """The tar of each (source, absolute target path), sources that are directories with all that is in them.

    What it unpacks to belongs to root, as the files of an image do; modes and times stay. Raises as ``tree``.
    """
    for source, target in pairs:
        name = target.strip("/")
        links: dict[tuple[int, int], str] = {}
        resolved = source.resolve(strict=True)
        if name:
            yield from _entry(resolved, name, links, owner=0)
        if resolved.is_dir():
            for path, below in _walk(resolved, f"{name}/" if name else ""):
                yield from _entry(path, below, links, owner=0)
    yield END


async def stream(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read the chunks in a worker thread, as disks are slow; small ones are put together."""

    def gather() -> bytes:
        parts: list[bytes] = []
        size = 0
        for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if size >= CHUNK:
                break
        return b"".join(parts)

    while data := await to_thread.run_sync(gather):
        yield data


def _walk(folder: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    """Everything below a folder with its name in the archive, a directory before what is in it."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        name = prefix + entry.name
        yield Path(entry.path), name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{name}/")


def _entry(
    path: Path, name: str, links: dict[tuple[int, int], str], owner: int | None = None
) -> Iterator[bytes]:
    status = path.lstat()
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid = status.st_uid if owner is None else owner
    info.gid = status.st_gid if owner is None else owner
    info.mtime = int(status.st_mtime)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        same = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and same in links:
            info.type, info.linkname = tarfile.LNKTYPE, links[same]
        else:
            links[same] = name
            info.size = status.st_size
            yield _header(info)
            yield from _content(path, status.st_size)
            return
    elif kind == stat.S_IFDIR:
        info.type = tarfile.DIRTYPE
    elif kind == stat.S_IFLNK:
        info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
    elif kind == stat.S_IFIFO:
        info.type = tarfile.FIFOTYPE
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        info.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    else:
        return  # a socket means nothing elsewhere
    yield _header(info)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb", buffering=0) as file:
        while left:
            data = file.read(min(left, CHUNK))
            if not data:
                raise OSError(f"{path} became shorter while it was read")
            left -= len(data)
            yield data
    if size % BLOCK:
        yield bytes(BLOCK - size % BLOCK)
